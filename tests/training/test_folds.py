"""``holdout: folds(n)``: each step holds one part of the labels out and trains on the others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from metaimpute import recipes
from metaimpute.recipes.shipped import locate
from metaimpute.recipes.source import RecipeError
from metaimpute.training.assemble import assemble, take_step
from metaimpute.training.sampling import FoldSampler

SMALL = (
    "task={name: digits, labels: 50, validation: 0}",
    "model={name: mlp, width: 6}",
    "train.steps=20",
    "train.batch=16",
)


def recipe(*sets: str) -> Any:
    return recipes.load(locate(Path("digits_fixmatch")), "sample", (*SMALL, *sets))


def test_no_step_trains_on_what_it_holds_out_and_all_labels_take_part() -> None:
    parts = assemble(recipe("problem.holdout=folds(5)"), lambda line: None)
    held, trained = set[int](), set[int]()
    for step in range(20):
        out, known = parts.batches.holdout(step), parts.batches.batch(step).labelled
        assert not set(out.index.tolist()) & set(known.index.tolist()) and len(out.index) == len(known.index) == 16
        assert torch.equal(parts.data.labelled.targets[known.index], known.targets)  # type: ignore[index]
        held |= set(out.index.tolist())
        trained |= set(known.index.tolist())
    assert held == trained == set(range(50))


def test_folds_are_balanced_disjoint_and_the_seeds() -> None:
    def of(seed: int) -> list[list[int]]:
        sampler: Any = assemble(
            recipe("problem.holdout=folds(5)", f"train.seed={seed}"), lambda line: None
        ).batches._holdout
        return [sorted(part.tolist()) for part in sampler.parts]

    assert sorted(row for part in of(0) for row in part) == list(range(50)) and [len(part) for part in of(0)] == [10] * 5
    assert of(0) == of(0) != of(1)
    data = assemble(recipe("problem.holdout=folds(5)"), lambda line: None).data
    assert all(sorted(data.labelled.targets[part].tolist()) == list(range(10)) for part in of(0))  # type: ignore[index]


def test_a_part_is_gone_over_evenly() -> None:
    sampler = FoldSampler([torch.tensor([3, 5, 7, 9]), torch.tensor([0, 1])], batch=2, seed=0, stream=1)
    first = torch.cat([sampler(step) for step in (0, 2)])
    assert sorted(first.tolist()) == [3, 5, 7, 9] and set(sampler(1).tolist()) == {0, 1}


def test_l2i_trains_with_folds() -> None:
    chosen = recipe("problem.holdout=folds(2)")
    parts = assemble(chosen, lambda line: None)
    found = [take_step(parts, chosen, step, measure=True) for step in range(3)]
    assert all(float(one["hypergradient_norm"]) >= 0 for one in found)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("folds(1)", "problem.holdout: write joint, separate, trusted, or folds.n. with n of at least 2"),
        ("fold(3)", "problem.holdout: write joint, separate, trusted, or folds.n."),
    ],
)
def test_what_is_no_holdout_is_refused(value: str, said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        recipe(f"problem.holdout={value}")


def test_too_few_labels_for_the_folds_are_refused() -> None:
    with pytest.raises(RecipeError, match=r"folds\(60\) needs 60 labels that can be held out, and there are 50"):
        assemble(recipe("problem.holdout=folds(60)"), lambda line: None)
    with pytest.raises(RecipeError, match="episodes hold query sets of their own; leave holdout out"):
        recipes.load(locate(Path("sinusoid_maml")), "sample", ("problem.holdout=folds(5)",))

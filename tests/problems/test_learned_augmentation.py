"""Learned augmentation: right gradients in the strengths, moves of the size that they say, and students that see them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from metaimpute import recipes
from metaimpute.problems import ProblemError, problems
from metaimpute.problems.learned_augmentation import augmented
from metaimpute.recipes.shipped import locate
from metaimpute.testing import check_problem
from metaimpute.training.assemble import assemble

SMALL = ("model={name: mlp, width: 6, depth: 1}", "train.batch=8", "problem.holdout_batch=8")


def recipe(*sets: str) -> Any:
    return recipes.load(locate(Path("digits_learned_augmentation")), "sample", ("train.steps=4", *SMALL, *sets))


@pytest.mark.parametrize("method", ["supervised", "fixmatch"])
def test_strengths_have_the_gradients_of_finite_differences(method: str) -> None:
    problem = problems.get("learned_augmentation")(shift=0.1, rotate=20.0, zoom=0.2, contrast=0.3)
    sets = (*SMALL, f"method={{name: {method}}}", "train.unlabelled_batch=8")
    report = check_problem(
        problem, recipe="digits_learned_augmentation", sets=sets, steps=2, estimators=["exact", "mixed"]
    )
    strengths = [term for term in report.terms if term.name.startswith("coupling")]
    assert len(strengths) == 8
    assert all(term.verdict in ("right", "kink") and term.found for term in strengths), report
    assert sum(term.verdict == "right" for term in strengths) >= 6, report


def at(**strengths: float) -> dict[str, torch.Tensor]:
    return {name: torch.tensor(value) for name, value in strengths.items()}


def test_no_strength_is_no_move() -> None:
    images = torch.rand(3, 1, 8, 8)
    torch.testing.assert_close(augmented(images, at(shift=0.0, rotate=0.0)), images, rtol=0, atol=1e-5)
    torch.testing.assert_close(augmented(images, {}), images, rtol=0, atol=1e-5)


def test_strengths_are_the_largest_moves() -> None:
    torch.manual_seed(0)
    images = torch.rand(500, 1, 1, 1).expand(-1, 1, 8, 8).contiguous() + 0.1
    factors = (augmented(images, at(contrast=0.7)) / images)[:, 0, 4, 4].log()
    assert 0.65 < float(factors.abs().max()) <= 0.7 + 1e-4
    spot = torch.zeros(500, 1, 32, 32)
    spot[:, :, 15:17, 15:17] = 1.0
    place = torch.arange(32.0) - 15.5
    moved = augmented(spot, at(shift=0.25))
    along = (moved.sum((1, 2)) * place).sum(1) / moved.sum((1, 2, 3))
    assert 7.0 < float(along.abs().max()) <= 8.01
    line = torch.zeros(500, 1, 33, 33)
    line[:, :, 16, 26] = 1.0  # ten pixels to the right of the centre
    turned = augmented(line, at(rotate=math.radians(30)))
    rows = (turned.sum((1, 3)) * (torch.arange(33.0) - 16)).sum(1) / turned.sum((1, 2, 3))
    assert 4.5 < float(rows.abs().max()) <= 5.3  # 10 sin(30 degrees)


def test_the_network_trains_on_moved_images() -> None:
    algorithm = (parts := assemble(recipe(), lambda line: None)).algorithm
    batch = algorithm.prepare(parts.batches.batch(0))
    before = algorithm._base_gradient(batch)[1]
    with torch.no_grad():
        algorithm.meta["rotate"].fill_(0.0)  # type: ignore[index]  # a radian
    after = algorithm._base_gradient(batch)[1]
    assert any(not torch.allclose(before[name], after[name], rtol=1e-2) for name in before)


def test_what_has_no_images_is_refused() -> None:
    with pytest.raises(ProblemError, match=r"moves images, and the task's inputs have the shape \[2\]"):
        assemble(recipe("task={name: two_moons}"), lambda line: None)
    with pytest.raises(ProblemError, match="learn: name one of shift, rotate, zoom, contrast"):
        assemble(recipe("problem.learn=[]"), lambda line: None)

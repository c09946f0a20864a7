"""Wrong labels and mismatched classes: as many as asked, where they belong, by seed, and refused where they cannot be."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from metaimpute import recipes
from metaimpute.recipes.source import RecipeError
from metaimpute.tasks import Digits, TaskData
from metaimpute.tasks.alterations import ClassMismatch, LabelNoise
from metaimpute.tasks.altered import altered
from metaimpute.training.assemble import assemble

RECIPE = str(Path(__file__).parents[2] / "recipes" / "digits_hyper_cleaning.yaml")


def spoilt(seed: int = 0, labels: int = 500, **options: object) -> TaskData:
    task = Digits(labels=labels, validation=100, **options)  # type: ignore[arg-type]
    return altered(task, task.load(seed), seed)


@pytest.mark.parametrize("kind", ["symmetric", "pair", "instance"])
def test_the_asked_share_of_labels_is_wrong_and_no_trusted_one(kind: str) -> None:
    noise = LabelNoise(kind=kind, rate=0.4, trusted=100)  # type: ignore[arg-type]
    data, again, other = spoilt(label_noise=noise), spoilt(label_noise=noise), spoilt(1, label_noise=noise)
    assert data.clean is not None and data.trusted is not None and data.labelled.targets is not None
    wrong = data.labelled.targets != data.clean
    assert not wrong[data.trusted].any() and torch.bincount(data.clean[data.trusted]).tolist() == [10] * 10
    assert int(wrong.sum()) == pytest.approx(160, abs=35 if kind == "instance" else 0)
    assert torch.equal(data.labelled.targets, again.labelled.targets)  # type: ignore[arg-type]
    assert not torch.equal(data.labelled.ids, other.labelled.ids)
    untouched = Digits(labels=500, validation=100).load(0)
    assert torch.equal(data.clean, untouched.labelled.targets)  # type: ignore[arg-type]
    assert torch.equal(data.test.targets, untouched.test.targets)  # type: ignore[arg-type]


def test_a_wrong_label_is_any_other_class_or_the_next_one() -> None:
    step = {}
    for kind in ("symmetric", "pair"):
        data = spoilt(label_noise=LabelNoise(kind=kind, rate=0.5))  # type: ignore[arg-type]
        assert data.labelled.targets is not None and data.clean is not None
        off = (data.labelled.targets - data.clean) % 10
        step[kind] = set(off[off > 0].tolist())
    assert step == {"symmetric": set(range(1, 10)), "pair": {1}}


def test_instance_noise_depends_on_the_row() -> None:
    """Rows of one class that look alike go to the same classes: fewer than noise without a look would reach."""
    data = spoilt(label_noise=LabelNoise(kind="instance", rate=0.4))
    assert data.labelled.targets is not None and data.clean is not None
    wrong = data.labelled.targets != data.clean
    most = [int(torch.bincount(data.labelled.targets[wrong & (data.clean == label)]).max()) for label in range(10)]
    rows = [int((wrong & (data.clean == label)).sum()) for label in range(10)]
    assert sum(most) / sum(rows) > 0.4, "of nine classes, one would take a ninth or so"
    assert not (spoilt(label_noise=LabelNoise(kind="instance", rate=0.0)).labelled.targets != data.clean).any()  # type: ignore[union-attr]


def test_other_classes_are_the_asked_share_of_the_unlabelled_rows_and_nowhere_else() -> None:
    for rate in (0.0, 0.6, 1.0):
        data = spoilt(labels=100, class_mismatch=ClassMismatch(known=6, rate=rate))
        assert data.unlabelled.targets is not None
        assert float((data.unlabelled.targets >= 6).float().mean()) == pytest.approx(rate, abs=0.002)
        for pool in (data.labelled, data.validation, data.test):
            assert pool.targets is not None and set(pool.targets.tolist()) == set(range(6))
    noisy = spoilt(labels=100, class_mismatch=ClassMismatch(known=6), label_noise=LabelNoise(rate=0.5))
    assert noisy.labelled.targets is not None and int(noisy.labelled.targets.max()) < 6


def test_trusted_rows_are_the_holdout_and_the_others_are_trained_on() -> None:
    parts = assemble(recipes.load(Path(RECIPE), "sample"), lambda line: None)
    trained, held = set(parts.batches.labelled.ids.tolist()), set(parts.batches.holdout_pool.ids.tolist())
    assert len(trained) == 900 and len(held) == 100 and not trained & held
    alone = assemble(recipes.load(Path(RECIPE), "sample", ("problem.name=none",)), lambda line: None)
    assert len(alone.batches.labelled) == 1000


@pytest.mark.parametrize(
    ("assignment", "said"),
    [
        (
            "task.label_noise.trusted=0",
            "'trusted' needs labels that are known to be right: of one's own data those of task.corrections (metaimpute run --labels "
            "FILE), of others task.label_noise.trusted",
        ),
        (
            "task.label_noise.trusted=25",
            "trusted: 25 cannot be spread evenly over 10 classes; the nearest possible number is 20",
        ),
        ("task.label_noise.trusted=1000", "must leave some of the 1000 labels"),
        ("task.label_noise.kind=random", "symmetric"),
        ("task.label_noise.rates=0.1", "label_noise"),
        ("task.label_noise.rate=1", "less than 1"),
        ("task.class_mismatch={known: 10}", "known: 10 must be at least 2 and leave classes out of 10"),
        (
            "task={name: drawn_faces, label_noise: {rate: 0.1}}",
            "only for classes, and task 'drawn_faces' predicts values",
        ),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(assignment: str, said: str) -> None:
    sets = (assignment, "problem={name: none, holdout: joint}") if "drawn_faces" in assignment else (assignment,)
    with pytest.raises(RecipeError) as caught:
        recipes.load(Path(RECIPE), "sample", sets)
    assert said in str(caught.value) and "\n" not in str(caught.value)

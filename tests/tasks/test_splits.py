"""Splits are disjoint, balanced and reproducible; impossible numbers are refused by name."""

from __future__ import annotations

import pytest
import torch

from metaimpute.tasks import Digits, Pool, TaskError, TwoMoons, tasks
from metaimpute.tasks.splits import balanced_choice, generator, separate_holdout


@pytest.mark.parametrize("task", [Digits(labels=40), TwoMoons(labels=6, size=300)], ids=lambda t: t.name)
def test_pools_are_disjoint_balanced_and_decided_by_the_seed(task: object) -> None:
    data, again, other = task.load(1), task.load(1), task.load(2)  # type: ignore[attr-defined]
    classes = task.output.size  # type: ignore[attr-defined]
    parts = [set(pool.ids.tolist()) for pool in (data.labelled, data.unlabelled, data.validation)]
    assert not (parts[0] & parts[1] or parts[0] & parts[2] or parts[1] & parts[2])
    counts = torch.bincount(data.labelled.targets, minlength=classes)
    assert len(set(counts.tolist())) == 1 and int(counts.sum()) == task.labels  # type: ignore[attr-defined]
    assert torch.equal(data.labelled.ids, again.labelled.ids)
    assert not torch.equal(data.labelled.ids, other.labelled.ids)
    assert torch.equal(data.test.ids, other.test.ids) and torch.equal(data.validation.ids, other.validation.ids)


def test_digits_test_images_are_in_no_other_pool() -> None:
    data = Digits(labels=10).load(0)
    rest = {int(i) for pool in (data.labelled, data.unlabelled, data.validation) for i in pool.ids}
    test = {int(i) for i in data.test.ids}
    assert not rest & test and len(rest) + len(test) == 1797 and len(test) == 500


def test_the_unlabelled_pool_can_include_the_labelled_one() -> None:
    data = Digits(labels=20, unlabelled_includes_labelled=True).load(0)
    assert set(data.labelled.ids.tolist()) <= set(data.unlabelled.ids.tolist())


@pytest.mark.parametrize(
    ("labels", "message"),
    [(25, "nearest possible number is 20"), (3, "nearest possible number is 10"), (5000, "class 0 has only")],
)
def test_impossible_label_counts(labels: int, message: str) -> None:
    with pytest.raises(TaskError, match=message):
        Digits(labels=labels).load(0)


def test_separate_holdout_is_60_40_per_class_and_disjoint() -> None:
    targets = torch.tensor([0] * 5 + [1] * 5 + [2] * 2)
    pool = Pool(torch.arange(12.0)[:, None], targets, torch.arange(12))
    train, holdout = separate_holdout(pool, 3, seed=4)
    assert torch.bincount(train.targets).tolist() == [3, 3, 1]
    assert torch.bincount(holdout.targets).tolist() == [2, 2, 1]
    assert sorted([*train.ids.tolist(), *holdout.ids.tolist()]) == list(range(12))
    with pytest.raises(TaskError, match="at least 2 labels per class; class 3 has 0"):
        separate_holdout(pool, 4, seed=4)


def test_balanced_choice_never_takes_unknown_targets() -> None:
    targets = torch.tensor([-1, 0, 1, -1, 1, 0])
    chosen = balanced_choice(targets, 4, generator(0, 0), 2)
    assert sorted(chosen.tolist()) == [1, 2, 4, 5]


def test_views_depend_on_the_generator_alone_and_keep_shape() -> None:
    for name in ("digits", "two_moons"):
        task = tasks.get(name)(labels=10 if name == "digits" else 4)
        raw = task.load(0).unlabelled.take(torch.arange(6))
        for kind in ("weak", "strong"):
            one, two = (task.view(raw, kind, generator(3, 1)) for _ in range(2))
            assert torch.equal(one, two) and one.shape == raw.shape and not torch.equal(one, raw)
            assert not torch.equal(one, task.view(raw, kind, generator(3, 2)))
        assert torch.equal(task.view(raw, "none", generator(0, 0)), raw)

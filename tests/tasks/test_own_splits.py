"""Splits hold for any data: disjoint, covering every row, in proportion, decided by the seed alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from metaimpute.tasks import Pool, TaskData, TaskError
from metaimpute.tasks.splits import (
    balanced_choice,
    generator,
    is_known,
    partly_labelled,
    semi_supervised,
    separate_holdout,
    stratified_choice,
)  # fmt: skip

hypothesis = pytest.importorskip("hypothesis")
from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

few = settings(max_examples=60, deadline=None)
seeds = st.integers(0, 2**31)
PARTS = ("labelled", "unlabelled", "validation", "test")


@st.composite
def partly_known(draw: Any, least: int = 1) -> tuple[Pool, int]:
    """A pool with unknown targets among known ones, every class with ``least`` labels at least; and the number of classes."""
    classes = draw(st.integers(2, 5))
    known = [label for label in range(classes) for _ in range(draw(st.integers(least, 12)))]
    targets = draw(st.permutations([*known, *[-1] * draw(st.integers(1, 25))]))
    return Pool(torch.arange(len(targets)), torch.tensor(targets), torch.arange(len(targets))), classes


def split(pool: Pool, classes: int | None, seed: int = 0, **options: Any) -> TaskData:
    defaults: dict[str, Any] = {
        "labels": 0,
        "validation": 0,
        "test_share": 0.25,
        "include_labelled": False,
        "source": "",
    }
    return partly_labelled(pool, options.pop("tested", None), classes=classes, seed=seed, **(defaults | options))


def ids(data: TaskData) -> dict[str, list[int]]:
    return {part: sorted(getattr(data, part).ids.tolist()) for part in PARTS}


def counts(pool: Pool, classes: int) -> list[int]:
    return torch.bincount(pool.targets, minlength=classes).tolist()


@few
@given(partly_known(), seeds, st.sampled_from([0, 6]), st.sampled_from([0.0, 0.2, 0.5]), st.booleans())
def test_parts_are_disjoint_cover_every_row_and_follow_the_seed(
    made: tuple[Pool, int], seed: int, labels: int, share: float, include: bool
) -> None:
    pool, classes = made
    data = split(pool, classes, seed, labels=labels, test_share=share, include_labelled=include)
    found = ids(data)
    rows = [row for part, held in found.items() if not (include and part == "labelled") for row in held]
    assert sorted(rows) == list(range(len(pool)))
    assert set(found["labelled"]) <= set(found["unlabelled"]) if include else True
    for part in ("labelled", "validation", "test"):
        assert (getattr(data, part).targets >= 0).all(), "only rows with a label are trained or tested on"
    assert min(counts(data.labelled, classes)) >= 1, "every class keeps a training label"
    again, other = (
        split(pool, classes, seed, labels=labels, test_share=share, include_labelled=include),
        split(pool, classes, seed + 1, labels=labels, test_share=share, include_labelled=include),
    )
    assert torch.equal(again.labelled.ids, data.labelled.ids) and ids(again) == found
    assert torch.equal(other.test.ids, data.test.ids), "the test rows never move"


@few
@given(partly_known(least=3), st.integers(0, 60), seeds, st.integers(0, 2), st.integers(0, 2))
def test_stratified_shares_differ_from_the_classes_own_by_less_than_one(
    made: tuple[Pool, int], count: int, seed: int, least: int, spare: int
) -> None:
    pool, classes = made
    assert pool.targets is not None
    chosen = stratified_choice(pool.targets, count, generator(seed, 1), classes, least=least, spare=spare)
    assert len(set(chosen.tolist())) == len(chosen) and (pool.targets[chosen] >= 0).all()
    free = [n - spare for n in torch.bincount(pool.targets[pool.targets >= 0], minlength=classes).tolist()]
    count = min(count, sum(free))
    found = torch.bincount(pool.targets[chosen], minlength=classes).tolist()
    assert all(min(least, room) <= n <= room for n, room in zip(found, free, strict=True))
    if least == 0:
        assert sum(found) == count
        assert all(abs(n - count * room / max(sum(free), 1)) < 1 for n, room in zip(found, free, strict=True))
    again = stratified_choice(pool.targets, count, generator(seed, 1), classes, least=least, spare=spare)
    assert torch.equal(again, chosen)


@few
@given(st.lists(st.one_of(st.just(float("nan")), st.floats(-9, 9)), min_size=8, max_size=40), seeds)
def test_values_are_split_as_well(values: list[float], seed: int) -> None:
    targets = torch.tensor(values)[:, None]
    pool = Pool(torch.arange(len(values)), targets, torch.arange(len(values)))
    known = int(is_known(targets).sum())
    if known < 3 or known == len(values):
        return
    data = split(pool, None, seed, validation=1)
    assert sorted(row for held in ids(data).values() for row in held) == list(range(len(values)))
    assert len(data.test) == min(round(0.25 * known), known - 1) and len(data.validation) == 1
    assert torch.isfinite(data.labelled.targets).all() and torch.isnan(data.unlabelled.targets).all()


@few
@given(partly_known(least=2))
def test_given_test_rows_are_the_test_rows(made: tuple[Pool, int]) -> None:
    pool, classes = made
    assert pool.targets is not None
    tested = torch.cat([(pool.targets == label).nonzero()[:1, 0] for label in range(classes)])
    data = split(pool, classes, tested=tested)
    assert set(data.test.ids.tolist()) == set(tested.tolist())
    assert counts(data.test, classes) == [1] * classes


@few
@given(st.integers(2, 4), st.integers(1, 4), st.integers(0, 3), seeds)
def test_balanced_splits_are_balanced_disjoint_and_exhaustive(classes: int, each: int, held: int, seed: int) -> None:
    targets = torch.arange(classes).repeat(each + held + 2)
    train = Pool(torch.arange(len(targets)), targets, torch.arange(len(targets)))
    test = Pool(torch.arange(3), torch.zeros(3, dtype=torch.long), torch.arange(3) + 1000)
    data = semi_supervised(
        train, test, labels=each * classes, validation=held * classes, classes=classes, seed=seed,
        include_labelled=False, source="",
    )  # fmt: skip
    assert counts(data.labelled, classes) == [each] * classes
    assert counts(data.validation, classes) == [held] * classes
    found = ids(data)
    assert sorted([*found["labelled"], *found["unlabelled"], *found["validation"]]) == list(range(len(targets)))


@few
@given(st.lists(st.integers(2, 9), min_size=2, max_size=5), seeds)
def test_a_separate_holdout_parts_every_class(sizes: list[int], seed: int) -> None:
    targets = torch.tensor([label for label, size in enumerate(sizes) for _ in range(size)])
    pool = Pool(torch.arange(len(targets)), targets, torch.arange(len(targets)))
    train, holdout = separate_holdout(pool, len(sizes), seed)
    assert sorted([*train.ids.tolist(), *holdout.ids.tolist()]) == list(range(len(targets)))
    for part in (train, holdout):
        assert min(counts(part, len(sizes))) >= 1


@few
@given(st.lists(st.integers(-1, 3), min_size=1, max_size=30), st.integers(1, 12), seeds)
def test_a_balanced_choice_is_balanced_or_refused(targets: list[int], count: int, seed: int) -> None:
    known = torch.tensor(targets)
    if count % 4 or min(targets.count(label) for label in range(4)) < count // 4:
        with pytest.raises(TaskError, match="^labels: "):
            balanced_choice(known, count, generator(seed, 0), 4)
    else:
        chosen = balanced_choice(known, count, generator(seed, 0), 4)
        assert torch.bincount(known[chosen], minlength=4).tolist() == [count // 4] * 4
        assert len(set(chosen.tolist())) == count


def test_a_label_that_training_sees_is_no_truth_of_an_unlabelled_row() -> None:
    """Else the accuracy of imputed labels would be measured on the labels trained on."""
    targets = torch.tensor([0, 1] * 10 + [-1] * 20)
    pool = Pool(torch.arange(40)[:, None], targets, torch.arange(40))
    data = partly_labelled(
        pool, None, labels=8, validation=0, test_share=0.2, classes=2, seed=0, include_labelled=True, source="made"
    )
    assert data.unlabelled.targets is not None
    trained = torch.isin(data.unlabelled.ids, data.labelled.ids)
    assert int(trained.sum()) == 8 and bool((data.unlabelled.targets[trained] == -1).all())
    left = data.unlabelled.targets[~trained]
    assert int((left >= 0).sum()) == 20 - 4 - 8, "labels beyond those asked for are still known to diagnostics"

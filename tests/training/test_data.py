"""Batches of a step: the right view of the right pool, each with noise of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from metaimpute.methods import methods
from metaimpute.tasks.base import Pool, Task
from metaimpute.training.data import BatchSizes, BatchSource


@dataclass
class Telling(Task):
    """A task whose views say what they are: the example's number, the kind, and the noise they drew."""

    def view(self, raw: Any, kind: Any, generator: torch.Generator) -> Any:
        code = {"none": 0.0, "weak": 1.0, "strong": 2.0}[kind]
        return torch.stack([raw, torch.full_like(raw, code), torch.rand(len(raw), generator=generator)], 1)


def source(method: str, method_options: dict[str, Any] | None = None, **options: Any) -> BatchSource:
    def pool(start: int, n: int) -> Pool:
        numbers = torch.arange(start, start + n)
        return Pool(numbers.float(), numbers % 2, numbers)

    return BatchSource(
        Telling(), methods.get(method)(**(method_options or {})), pool(0, 10), pool(100, 30), pool(200, 8), BatchSizes(4, 6, 3), "strong", 20, 0,
        torch.device("cpu"), **options,
    )  # fmt: skip


def test_every_batch_is_of_its_own_pool_view_and_noise() -> None:
    batches = source("fixmatch")
    batch, holdout = batches.batch(3), batches.holdout(3)
    views = {
        "labelled": (batch.labelled.inputs, 0, 1.0), "weak": (batch.unlabelled.weak, 100, 1.0),
        "strong": (batch.unlabelled.strong, 100, 2.0), "holdout": (holdout.inputs, 200, 2.0),
    }  # fmt: skip
    for name, (inputs, first, code) in views.items():
        assert bool(((inputs[:, 0] >= first) & (inputs[:, 0] < first + 40)).all()), name
        assert bool((inputs[:, 1] == code).all()), name
    assert torch.equal(batch.unlabelled.weak[:, 0], batch.unlabelled.strong[:, 0])
    noises = torch.cat([inputs[:, 2] for inputs, _, _ in views.values()])
    assert len(noises.unique()) == len(noises)
    assert torch.equal(batch.labelled.targets.float(), batch.labelled.inputs[:, 0] % 2)
    assert batch.progress == 3 / 20 and batch.step == 3


def test_views_follow_the_method_and_repeat_exactly() -> None:
    uda = source("uda").batch(0)
    assert bool((uda.labelled.inputs[:, 1] == 0).all()) and bool((uda.unlabelled.weak[:, 1] == 0).all())
    one, two = source("mean_teacher").batch(5), source("mean_teacher").batch(5)
    assert torch.equal(one.unlabelled.strong, two.unlabelled.strong)
    assert not torch.equal(one.unlabelled.strong[:, 2], one.unlabelled.weak[:, 2])
    assert source("supervised", needs_unlabelled=False).batch(0).unlabelled.strong is None


def test_a_method_gets_as_many_views_as_it_asks_for() -> None:
    two, four = source("mixmatch").batch(5).unlabelled, source("mixmatch", {"augmentations": 4}).batch(5).unlabelled
    assert two.more == () and len(four.more) == 2
    assert torch.equal(two.weak, four.weak) and torch.equal(two.strong, four.strong), "further views disturb no other"
    views = torch.stack([four.weak, four.strong, *four.more])
    assert bool((views[:, :, 0] == four.weak[:, 0]).all()), "the same examples"
    assert bool((views[:, :, 1] == 1.0).all()), "all weak"
    assert len(views[:, :, 2].unique()) == 4 * 6, "each with noise of its own"
    again = source("mixmatch", {"augmentations": 4}).batch(5).unlabelled
    assert all(torch.equal(a, b) for a, b in zip(four.more, again.more, strict=True))


def test_methods_of_one_view_are_given_it_as_both() -> None:
    for method in ("mixup", "vat"):
        unlabelled = source(method).batch(5).unlabelled
        assert unlabelled.strong is unlabelled.weak and unlabelled.more == ()

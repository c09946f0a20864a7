"""Pools of a task with wrong labels and mismatched classes, as its options ask for them; the seed decides which."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from ..batches.outputs import Classes
from ..streams import Stream
from .alterations import ClassMismatch, LabelNoise
from .base import Pool, Task, TaskData, TaskError, check_balanced
from .splits import balanced_choice, generator, without

SPREAD = 0.1  # standard deviation of the rates of single rows, as in Xia et al.


def check_alterations(task: Task) -> None:
    """Whether the task can be altered as asked, before anything is loaded.

    Raises:
        TaskError: ``option: reason``.
    """
    noise, mismatch = task.label_noise, task.class_mismatch
    for option, given in (("label_noise", noise), ("class_mismatch", mismatch)):
        if given is not None and not isinstance(task.output, Classes):
            raise TaskError(f"{option}: only for classes, and task '{task.name}' predicts values")
    if mismatch is not None and not 2 <= mismatch.known < task.output.size:
        raise TaskError(
            f"class_mismatch: known: {mismatch.known} must be at least 2 and leave classes out of {task.output.size}"
        )
    if noise is not None and noise.trusted:
        check_balanced(noise.trusted, _classes(task), "label_noise: trusted")
        if task.labels and noise.trusted >= task.labels:
            raise TaskError(f"label_noise: trusted: {noise.trusted} must leave some of the {task.labels} labels")


def altered(task: Task, data: TaskData, seed: int) -> TaskData:
    """The pools with the task's ``class_mismatch``, then its ``label_noise``.

    Raises:
        TaskError: where the data cannot meet the options.
    """
    if task.class_mismatch is not None:
        data = mismatched(data, task.class_mismatch, generator(seed, Stream.MISMATCH))
    if task.label_noise is not None:
        data = noisy(data, task.label_noise, _classes(task), generator(seed, Stream.LABEL_NOISE))
    return data


def _classes(task: Task) -> int:
    return task.output.size if task.class_mismatch is None else task.class_mismatch.known


def mismatched(data: TaskData, mismatch: ClassMismatch, rng: torch.Generator) -> TaskData:
    """Known classes alone, but for ``rate`` of the unlabelled rows. Unlabelled rows of unknown class are left out.

    Raises:
        TaskError: where the unlabelled pool has no row of one side.
    """

    def known(pool: Pool) -> Pool:
        assert pool.targets is not None
        return pool.subset((pool.targets < mismatch.known).nonzero()[:, 0])

    targets = data.unlabelled.targets
    if targets is None:
        raise TaskError("class_mismatch: the classes of the unlabelled rows are not known")
    inside = ((targets >= 0) & (targets < mismatch.known)).nonzero()[:, 0]
    outside = (targets >= mismatch.known).nonzero()[:, 0]
    room = [len(rows) / share for rows, share in ((inside, 1 - mismatch.rate), (outside, mismatch.rate)) if share]
    total = int(min(room))
    beside = min(round(mismatch.rate * total), len(outside))
    if total < 1:
        raise TaskError(f"class_mismatch: rate: {mismatch.rate:g} leaves no unlabelled examples")
    chosen = [
        rows[torch.randperm(len(rows), generator=rng, device="cpu")[:n]]
        for rows, n in ((inside, min(total - beside, len(inside))), (outside, beside))
    ]
    unlabelled = data.unlabelled.subset(torch.cat(chosen).sort().values)
    return dataclasses.replace(
        data,
        labelled=known(data.labelled),
        unlabelled=unlabelled,
        validation=known(data.validation),
        test=known(data.test),
    )


def noisy(data: TaskData, noise: LabelNoise, classes: int, rng: torch.Generator) -> TaskData:
    """Wrong labels among the labelled rows that are not trusted; :attr:`TaskData.clean` keeps the right ones."""
    targets = data.labelled.targets
    assert targets is not None
    trusted = torch.empty(0, dtype=torch.long) if data.trusted is None else data.trusted
    if noise.trusted:
        trusted = balanced_choice(targets, noise.trusted, rng, classes, "label_noise: trusted")
    rest = without(len(targets), trusted)
    if not len(rest):
        raise TaskError(f"label_noise: trusted: {noise.trusted} must leave some of the {len(targets)} labels")
    given = targets.clone()
    if noise.kind == "instance":
        inputs = data.labelled.inputs
        if not isinstance(inputs, Tensor):
            raise TaskError("label_noise: kind: 'instance' needs inputs that are numbers; use symmetric or pair")
        given[rest] = _by_instance(inputs[rest].flatten(1).float(), targets[rest], noise.rate, classes, rng)
    else:
        wrong = rest[torch.randperm(len(rest), generator=rng, device="cpu")[: round(noise.rate * len(rest))]]
        step = torch.ones(len(wrong), dtype=torch.long)
        if noise.kind == "symmetric":
            step = torch.randint(1, classes, (len(wrong),), generator=rng, device="cpu")
        given[wrong] = (targets[wrong] + step) % classes
    labelled = dataclasses.replace(data.labelled, targets=given)
    return dataclasses.replace(data, labelled=labelled, clean=targets, trusted=trusted.sort().values)


def _by_instance(inputs: Tensor, targets: Tensor, rate: float, classes: int, rng: torch.Generator) -> Tensor:
    """Algorithm 2 of Xia et al. (2020): a rate for each row, and a random projection of it for each true class.

    Args:
        inputs: ``[n, features]``. targets: ``[n]``, the right classes.
    """
    rates = (rate + SPREAD * torch.randn(len(inputs), generator=rng, device="cpu")).clamp(0.0, 1.0)
    rates = rates * (rate > 0)
    projections = torch.randn(classes, inputs.shape[1], classes, generator=rng, device="cpu")
    scores = torch.stack([row @ projections[label] for row, label in zip(inputs, targets.tolist(), strict=True)])
    scores.scatter_(1, targets[:, None], float("-inf"))
    chances = rates[:, None] * scores.softmax(-1)
    chances.scatter_(1, targets[:, None], (1 - rates)[:, None])
    return torch.multinomial(chances, 1, generator=rng)[:, 0]

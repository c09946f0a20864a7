"""What a scheduler of torch.optim will do: the numbers it will set, step by step, found by asking it and putting all back."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from .base import UnsupportedOptimizer

Groups = list[dict[str, Any]]


def coming_groups(optimizer: torch.optim.Optimizer, scheduler: Any, steps: int) -> list[Groups]:
    """The parameter groups at each of the next ``steps`` steps, with ``scheduler.step()`` after each. Both are left as they were.

    Raises:
        UnsupportedOptimizer: for a scheduler of another optimiser or none of torch's, one that waits for a metric, and one over a
            learning rate that is a tensor.
    """
    if isinstance(scheduler, ReduceLROnPlateau):
        raise UnsupportedOptimizer(
            "ReduceLROnPlateau waits for a metric, which no inner step has; take a scheduler of the step alone, or "
            "per_step(rule, lr=[...])"
        )
    if not isinstance(scheduler, LRScheduler):
        raise UnsupportedOptimizer(
            f"scheduler is one of torch.optim.lr_scheduler, not a {type(scheduler).__name__}; for numbers of your own there is "
            "per_step(rule, lr=[...])"
        )
    if scheduler.optimizer is not optimizer:
        raise UnsupportedOptimizer("the scheduler is of another optimizer; pass the optimizer that it was made with")
    if not isinstance(steps, int) or isinstance(steps, bool) or steps < 1:
        raise UnsupportedOptimizer(
            f"with a scheduler from_torch needs steps, how many inner steps there will be at most, not {steps!r}"
        )
    if any(isinstance(group["lr"], Tensor) for group in optimizer.param_groups):
        raise UnsupportedOptimizer(
            "a scheduler writes into a learning rate that is a tensor, which then cannot be differentiated; make the optimizer "
            "with a number, or schedule the twin by scheduled(twin, factors)"
        )
    found = []
    with _put_back(optimizer, scheduler), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of steps of the scheduler without one of the optimizer
        for step in range(steps):
            if step:
                try:
                    scheduler.step()
                except ValueError as error:  # OneCycleLR at its end
                    raise UnsupportedOptimizer(f"the scheduler has no {steps} steps to come: {error}") from None
            found.append([dict(group) for group in optimizer.param_groups])
    return found


@contextmanager
def _put_back(optimizer: torch.optim.Optimizer, scheduler: LRScheduler) -> Iterator[None]:
    """Undoes what steps of the scheduler do to it, to those inside it, and to the optimiser's groups."""
    owners: list[dict[str, Any]] = [vars(part) for part in _all_in(scheduler)] + optimizer.param_groups
    kept = [dict(owner) for owner in owners]
    try:
        yield
    finally:
        for owner, before in zip(owners, kept, strict=True):
            owner.clear()
            owner.update(before)


def _all_in(scheduler: LRScheduler) -> list[LRScheduler]:
    """The scheduler and those it is made of, of SequentialLR and ChainedScheduler."""
    inside = vars(scheduler).get("_schedulers", [])
    return [scheduler, *(part for one in inside for part in _all_in(one))]

"""What goes around a part of a step: a look before and after, no decay of weights, buffers carried over once."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ..batches import Labelled
from ..engine import FunctionalModel
from ..engine.losses import Split, StructuredLoss

Watch = Callable[[Labelled], dict[str, Tensor]]


def watched(
    update: Callable[[], dict[str, Tensor | float]], watch: Watch | None, holdout: Labelled
) -> dict[str, Tensor | float]:
    if watch is None:
        return update()
    before, metrics = watch(holdout), update()
    for when, seen in (("before", before), ("after", watch(holdout))):
        metrics.update({f"update_{name}_{when}": value for name, value in seen.items()})
    return metrics


@contextmanager
def without_decay(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Weight decay of every group at zero, for one step."""
    before = [group.get("weight_decay") for group in optimizer.param_groups]
    for group, decay in zip(optimizer.param_groups, before, strict=True):
        if decay is not None:
            group["weight_decay"] = 0.0
    try:
        yield
    finally:
        for group, decay in zip(optimizer.param_groups, before, strict=True):
            if decay is not None:
                group["weight_decay"] = decay


def once_updating_buffers(loss: StructuredLoss, model: FunctionalModel) -> StructuredLoss:
    """The same loss, whose first evaluation carries BatchNorm statistics into the module, as the base step would."""

    def once(function: Any) -> Any:
        calls = iter([True])

        def call(*args: Any) -> Any:
            with model.updating_buffers(next(calls, False)):
                return function(*args)

        return call

    parts = None if loss.split is None else Split(once(loss.split.free), once(loss.split.coupled))
    return dataclasses.replace(loss, whole=once(loss.whole), split=parts)

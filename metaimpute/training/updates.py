"""Steps of optimisers that are made only where what they follow is finite.

Where numbers are looked at late (:mod:`.finite`) the optimiser itself decides on the device: torch's fused optimisers leave a
step out where ``found_inf`` says so. Other optimisers cannot, so numbers are then looked at at once.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from ..batches import Batch
from .finite import Finite
from .loss_scale import LossScale

KERNELS = ("fused", "foreach")
SMALLEST = 1.0  # of a loss scale: below it a gradient is not finite in float32 either, or nearly so


def decides_itself(optimizer: torch.optim.Optimizer) -> bool:
    """Whether it can leave a step out on the device."""
    return all(group.get("fused") and not group.get("dampening") for group in optimizer.param_groups)


def looks_late(device: torch.device, optimizers: Iterable[torch.optim.Optimizer | None]) -> bool:
    """Whether numbers need not be looked at at once: on an accelerator, with optimisers that decide themselves."""
    return device.type != "cpu" and all(one is None or decides_itself(one) for one in optimizers)


def as_built(optimizer: torch.optim.Optimizer, saved: dict[str, Any]) -> dict[str, Any]:
    """A saved state with this optimiser's own kind of kernel: a checkpoint may come from another device."""
    pairs = zip(saved["param_groups"], optimizer.param_groups, strict=False)
    groups = [{**theirs, **{key: ours[key] for key in KERNELS if key in ours}} for theirs, ours in pairs]
    return {**saved, "param_groups": [*groups, *saved["param_groups"][len(groups) :]]}


def take(
    finite: Finite, optimizer: torch.optim.Optimizer, size: Tensor, what: str, batch: Batch,
    scale: LossScale | None = None,
) -> None:  # fmt: skip
    """One step along the gradients that the optimiser's parameters have, if they are finite.

    Args:
        size: norm of those gradients, a scalar. what: their name. scale: of the loss they were taken of, which is told; a
            gradient that is not finite then leaves the update out instead of ending the training.

    Raises:
        Diverged: when they are not finite, at whatever scale of the loss; at once, or where ``finite`` is settled.
    """
    _lay_out(optimizer)
    bad = ~torch.isfinite(size.detach())
    if scale is None:
        finite.require(size, f"norm of the {what}", batch)
    else:
        scale.saw(bad)
        lost = torch.where(scale.value < SMALLEST, torch.nan, scale.value)
        _require_scale(finite, lost, what, batch)
    if finite.waits:
        _step_unless(bad | finite.failed, optimizer)
        return
    if scale is not None and bool(bad):
        optimizer.zero_grad(set_to_none=True)  # then the step moves nothing; learning-rate schedules count it
    optimizer.step()


def _require_scale(finite: Finite, scale: Tensor, what: str, batch: Batch) -> None:
    finite.require(scale, f"loss scale (the {what} was not finite down to {SMALLEST:g})", batch)


def _step_unless(bad: Tensor, optimizer: torch.optim.Optimizer) -> None:
    """A step of a fused optimiser that changes nothing, its state neither, where ``bad`` is true on the device."""
    if isinstance(optimizer, torch.optim.SGD):
        _begin_momentum(optimizer)
    flagged: Any = optimizer
    flagged.grad_scale, flagged.found_inf = None, bad.float()
    try:
        optimizer.step()
    finally:
        del flagged.grad_scale, flagged.found_inf


def _lay_out(optimizer: torch.optim.Optimizer) -> None:
    """Gradients in the memory order of their parameters, by which fused kernels read them."""
    for group in optimizer.param_groups:
        for param in group["params"] if group.get("fused") else ():
            if param.grad is not None and param.grad.stride() != param.stride():
                param.grad = torch.empty_like(param).copy_(param.grad)


def _begin_momentum(optimizer: torch.optim.SGD) -> None:
    """Momentum at zero, from which the first step makes the gradient: torch leaves it unset where the first step is left out."""
    for group in optimizer.param_groups:
        for param in group["params"]:
            if group["momentum"] and param.grad is not None and optimizer.state[param].get("momentum_buffer") is None:
                optimizer.state[param]["momentum_buffer"] = torch.zeros_like(param)

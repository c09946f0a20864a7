"""Batch normalisation whose statistics are weighted means over the rows of a batch (Zhao et al., 2020)."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

_ARGUMENTS = inspect.signature(F.batch_norm)


def weighted_batch_norm(
    rows: Tensor, weights: Tensor, scale: Tensor | None, shift: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Rows ``[n, channels, ...]`` normalised by the weighted mean and variance of each channel; both come with them.

    A differentiable function of rows and weights ``[n]``; with equal weights it is torch's own.
    """
    along = [0, *range(2, rows.ndim)]
    shape = [1, -1] + [1] * (rows.ndim - 2)
    share = (weights / weights.sum()).view(-1, *[1] * (rows.ndim - 1)) / rows[0, 0].numel()
    mean = (share * rows).sum(along)
    away = rows - mean.view(shape)
    variance = (share * away.square()).sum(along)
    found = away * (variance + eps).rsqrt().view(shape)
    if scale is not None:
        found = found * scale.view(shape)
    if shift is not None:
        found = found + shift.view(shape)
    return found, mean, variance


class _Weighted(TorchFunctionMode):
    """In training mode, normalisation of as many rows as there are weights is weighted."""

    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        self.weights = weights

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.batch_norm:
            given = _ARGUMENTS.bind(*args, **(kwargs or {}))
            given.apply_defaults()
            asked = given.arguments
            if asked["training"] and len(asked["input"]) == len(self.weights):
                found, mean, variance = weighted_batch_norm(
                    asked["input"], self.weights, asked["weight"], asked["bias"], asked["eps"]
                )
                with torch.no_grad():
                    for running, now in ((asked["running_mean"], mean), (asked["running_var"], variance)):
                        if running is not None:
                            running.lerp_(now.detach().to(running.dtype), asked["momentum"])
                return found
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def weighted_statistics(weights: Tensor) -> Iterator[None]:
    """Networks evaluated in this block on ``len(weights)`` rows take BatchNorm's statistics with these weights.

    Running statistics follow the weighted ones, the variance without torch's factor ``n / (n - 1)``.
    """
    with _Weighted(weights):
        yield

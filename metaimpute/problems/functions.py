"""A small function that a problem learns: a network of one hidden layer, its parameters a dict by name."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..engine.pytree import Tree


def init_function(inputs: int, width: int, outputs: int = 1) -> dict[str, Tensor]:
    """Initial parameters, uniform within ``1 / sqrt(fan in)`` as torch's linear layers have it."""

    def uniform(fan: int, *shape: int) -> Tensor:
        return (2 * torch.rand(*shape, device="cpu") - 1) / math.sqrt(fan)

    return {
        "hidden.weight": uniform(inputs, width, inputs), "hidden.bias": uniform(inputs, width),
        "out.weight": uniform(width, outputs, width), "out.bias": uniform(width, outputs),
    }  # fmt: skip


def call_function(meta: Tree, rows: Tensor) -> Tensor:
    """``[n, inputs]`` to ``[n, outputs]``, without a last activation."""
    hidden = torch.nn.functional.linear(rows, meta["hidden.weight"], meta["hidden.bias"]).relu()
    return torch.nn.functional.linear(hidden, meta["out.weight"], meta["out.bias"])


def weights_of_losses(meta: Tree, losses: Tensor) -> Tensor:
    """A weight in (0, 1) for each loss ``[n]``, through which no gradient reaches the losses."""
    return call_function(meta, losses.detach()[:, None])[:, 0].sigmoid()


def weights_at(meta: Tree) -> dict[str, float]:
    """The weight of a row with a small and of one with a large loss, for the log."""
    with torch.no_grad():
        small, large = weights_of_losses(meta, meta["out.bias"].new_tensor([0.0, 4.0]))
    return {"weight_at_loss_0": float(small), "weight_at_loss_4": float(large)}

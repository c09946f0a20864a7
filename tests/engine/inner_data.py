"""A small problem for inner blocks, and what a gradient through one is held against."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from metaimpute.engine.optimizers.torch_twins import TWINS

optim = torch.optim
STEPS = 3
KINDS: list[tuple[Any, dict[str, Any]]] = [
    *((kind, {}) for kind in TWINS if kind is not getattr(optim, "Muon", None)),
    (optim.SGD, {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
    (optim.SGD, {"momentum": 0.5, "dampening": 0.3, "maximize": True}),
    (optim.Adam, {"amsgrad": True, "betas": (0.5, 0.7), "weight_decay": 0.1}),
    (optim.RMSprop, {"momentum": 0.9, "centered": True}),
]


class Data:
    def __init__(self, seed: int = 1) -> None:
        draw = torch.Generator().manual_seed(seed)
        self.x, self.y, self.x_val, self.y_val = (
            torch.randn(6, n, generator=draw) for n in (4, 2, 4, 2)
        )  # fmt: skip


def network() -> nn.Sequential:
    torch.manual_seed(2)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2))


def named(case: Any) -> str:
    return case[0].__name__ + ",".join(f"{k}={v}" for k, v in case[1].items()) if isinstance(case, tuple) else str(case)


def differences(value: Callable[[], Tensor], tensor: Tensor, step: float = 1e-4) -> Tensor:
    """Central differences of fourth order along every entry."""
    at, slopes = tensor.detach().view(-1), []
    for entry in range(at.numel()):
        kept, found = float(at[entry]), []
        for shift in (1, -1, 2, -2):
            at[entry] = kept + shift * step
            found.append(float(value()))
        at[entry] = kept
        slopes.append((8 * (found[0] - found[1]) - (found[2] - found[3])) / (12 * step))
    return torch.tensor(slopes).view(tensor.shape)


def check(value: Callable[[], Tensor], tensors: list[Tensor], rtol: float = 1e-6, atol: float = 1e-9) -> None:
    for tensor, slope in zip(tensors, torch.autograd.grad(value(), tensors), strict=True):
        assert float(slope.abs().max()) > 0
        torch.testing.assert_close(slope, differences(value, tensor), rtol=rtol, atol=atol)


def after(net: nn.Module, data: Data) -> Tensor:
    return mse_loss(net(data.x_val), data.y_val)

"""Adadelta, in torch.optim's form."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..pytree import Tree
from .base import Hyper, InnerOptimizer, UnsupportedOptimizer, decayed, per_leaf, register_optimizer, root
from .limits import require_real


@register_optimizer("adadelta")
def adadelta(
    lr: Any = 1.0, rho: Any = 0.9, eps: Any = 1e-6, *, weight_decay: Any = 0.0, maximize: bool = False
) -> InnerOptimizer:
    """Adadelta (Zeiler, 2012, arXiv:1212.5701).

    ``v <- rho v + (1 - rho) g^2``; ``d = g sqrt(u + eps) / sqrt(v + eps)``; ``u <- rho u + (1 - rho) d^2``; the step
    is ``-lr d``. Both roots have a slope everywhere for an eps above 0.

    Hyperparameters that can be differentiated: lr, rho, eps, weight_decay.

    Raises:
        UnsupportedOptimizer: for a rho above 1, and at the first step for a complex parameter.
    """
    if isinstance(rho, int | float) and rho > 1:
        raise UnsupportedOptimizer(f"adadelta: rho must lie in [0, 1], not {rho}")

    def init_leaf(param: Tensor) -> Tree:
        require_real("adadelta", param)
        zeros = torch.zeros_like(param, requires_grad=False)
        return [zeros, zeros]

    def update_leaf(grad: Tensor, state: list[Tensor], param: Tensor, hyper: Hyper) -> tuple[Tensor, Tree]:
        rho, eps = hyper["rho"], hyper["eps"]
        grad = decayed(grad, param, hyper, maximize)
        square = rho * state[0] + (1 - rho) * grad.square()
        change = root(state[1] + eps) / root(square + eps) * grad
        return -hyper["lr"] * change, [square, rho * state[1] + (1 - rho) * change.square()]

    hyper = {"lr": lr, "rho": rho, "eps": eps, "weight_decay": weight_decay}
    return per_leaf(init_leaf, update_leaf, hyper, "adadelta", {"maximize": maximize})

"""Adagrad, in torch.optim's form."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..pytree import Tree
from .base import (
    Hyper,
    InnerOptimizer,
    Scaled,
    UnsupportedOptimizer,
    decayed,
    is_zero,
    per_leaf,
    register_optimizer,
    root,
)
from .limits import require_real


@register_optimizer("adagrad")
def adagrad(
    lr: Any = 1e-2,
    lr_decay: Any = 0.0,
    eps: Any = 1e-10,
    *,
    weight_decay: Any = 0.0,
    initial_accumulator_value: float = 0.0,
    eps_root: Any = 0.0,
    maximize: bool = False,
) -> InnerOptimizer:
    """Adagrad (Duchi et al., JMLR 2011).

    ``s <- s + g^2``; the step is ``-lr / (1 + (t - 1) lr_decay) * g / (sqrt(s + eps_root) + eps)``. Slopes at ``s = 0`` are as
    in adam.

    Hyperparameters that can be differentiated: lr, lr_decay, eps, eps_root, weight_decay.
    """

    if isinstance(initial_accumulator_value, Tensor) or not 0 <= initial_accumulator_value < float("inf"):
        raise UnsupportedOptimizer(
            "adagrad: initial_accumulator_value is a finite number of at least 0 and cannot be learned, not "
            f"{initial_accumulator_value}"
        )

    def init_leaf(param: Tensor) -> Tree:
        require_real("adagrad", param)
        return [0, torch.full_like(param, initial_accumulator_value, requires_grad=False)]

    def update_leaf(grad: Tensor, state: list[Any], param: Tensor, hyper: Hyper) -> tuple[Scaled, Tree]:
        t = state[0]
        grad = decayed(grad, param, hyper, maximize)
        total = state[1] + grad.square()
        under = total if is_zero(hyper["eps_root"]) else total + hyper["eps_root"]
        rate = hyper["lr"] / (1 + t * hyper["lr_decay"])
        return Scaled(-rate, grad, root(under) + hyper["eps"]), [t + 1, total]

    hyper = {"lr": lr, "lr_decay": lr_decay, "eps": eps, "eps_root": eps_root, "weight_decay": weight_decay}
    return per_leaf(init_leaf, update_leaf, hyper, "adagrad", {"maximize": maximize})

"""Adamax, in torch.optim's form."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..pytree import Tree
from .base import Hyper, InnerOptimizer, decayed, per_leaf, register_optimizer
from .limits import require_betas, require_real


@register_optimizer("adamax")
def adamax(
    lr: Any = 2e-3, betas: tuple[Any, Any] = (0.9, 0.999), eps: Any = 1e-8, *, weight_decay: Any = 0.0,
    maximize: bool = False,
) -> InnerOptimizer:  # fmt: skip
    """Adamax (Kingma and Ba, ICLR 2015, section 7.1): Adam by the infinity norm.

    ``m <- beta1 m + (1 - beta1) g``; ``u <- max(beta2 u, |g| + eps)``; the step is ``-lr m / (1 - beta1^t) / u``.

    The slope of ``|g|`` at 0 is taken as 0, which gives a first step its true slope there, ``-lr / eps``. At a tie of the maximum
    the slope is the mean of both sides'.

    Hyperparameters that can be differentiated: lr, beta1, beta2, eps, weight_decay.

    Raises:
        UnsupportedOptimizer: for a beta outside [0, 1), and at the first step for a complex parameter.
    """
    require_betas("adamax", betas)

    def init_leaf(param: Tensor) -> Tree:
        require_real("adamax", param)
        zeros = torch.zeros_like(param, requires_grad=False)
        return [0, zeros, zeros]

    def update_leaf(grad: Tensor, state: list[Any], param: Tensor, hyper: Hyper) -> tuple[Tensor, Tree]:
        t, beta1 = state[0] + 1, hyper["beta1"]
        grad = decayed(grad, param, hyper, maximize)
        mean = beta1 * state[1] + (1 - beta1) * grad
        largest = torch.maximum(hyper["beta2"] * state[2], grad.abs() + hyper["eps"])
        return -hyper["lr"] / (1 - beta1**t) * mean / largest, [t, mean, largest]

    hyper = {"lr": lr, "beta1": betas[0], "beta2": betas[1], "eps": eps, "weight_decay": weight_decay}
    return per_leaf(init_leaf, update_leaf, hyper, "adamax", {"maximize": maximize, "steep": ("eps",)})

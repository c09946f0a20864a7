"""Adam and AdamW, in torch.optim's form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..pytree import Tree
from .base import (
    Hyper,
    InnerOptimizer,
    Scaled,
    UnsupportedOptimizer,
    blend,
    decayed,
    is_zero,
    per_leaf,
    register_optimizer,
    root,
)
from .limits import require_real


@register_optimizer("adam")
def adam(
    lr: Any = 1e-3, betas: tuple[Any, Any] = (0.9, 0.999), eps: Any = 1e-8, *, weight_decay: Any = 0.0,
    eps_root: Any = 0.0, amsgrad: bool = False, maximize: bool = False, decoupled: bool = False,
) -> InnerOptimizer:  # fmt: skip
    """Adam (Kingma and Ba, ICLR 2015); ``decoupled`` weight decay is AdamW's.

    ``m <- beta1 m + (1 - beta1) g``; ``v <- beta2 v + (1 - beta2) g^2``; the step is
    ``-lr m_hat / (sqrt(v_hat + eps_root) + eps)`` with ``m_hat = m / (1 - beta1^t)``, ``v_hat = v / (1 - beta2^t)``.

    Derivatives stay finite where ``v`` is zero: the root's slope there is taken as 0, which gives the step its true slope,
    ``-lr / eps``. That slope is 1e8 times the learning rate at the default eps; a gradient that is nearly but not exactly
    zero has one nearly as large. An ``eps_root`` above 0 (as optax has it) tames both, and is no longer torch's rule.

    Hyperparameters that can be differentiated: lr, beta1, beta2, eps, eps_root, weight_decay.
    """

    for beta in betas:
        if not isinstance(beta, Tensor | Mapping) and not 0 <= beta < 1:
            raise UnsupportedOptimizer(f"betas must lie in [0, 1), not {beta}")

    def init_leaf(param: Tensor) -> Tree:
        require_real("adamw" if decoupled else "adam", param)
        zeros = torch.zeros_like(param, requires_grad=False)
        return [0, zeros, zeros, *([zeros] if amsgrad else [])]

    def update_leaf(grad: Tensor, state: list[Any], param: Tensor, hyper: Hyper) -> tuple[Tensor | Scaled, Tree]:
        t, mean, square = state[0] + 1, state[1], state[2]
        if decoupled:
            grad = -grad if maximize else grad
        else:
            grad = decayed(grad, param, hyper, maximize)
        mean = blend(mean, grad, hyper["beta1"])
        square = blend(square, grad.square(), hyper["beta2"])
        kept: list[Any] = [t, mean, square]
        second = square
        if amsgrad:
            second = torch.maximum(state[3], square)
            kept.append(second)
        # sqrt(v_hat) = sqrt(v) / unbiased: numbers are multiplied with each other, not with every entry
        unbiased = (1 - hyper["beta2"] ** t) ** 0.5
        if not is_zero(hyper["eps_root"]):
            second = second + hyper["eps_root"] * unbiased**2
        scale = -hyper["lr"] * unbiased / (1 - hyper["beta1"] ** t)
        step = Scaled(scale, mean, root(second) + hyper["eps"] * unbiased)
        if decoupled and not is_zero(hyper["weight_decay"]):
            return step.update() - hyper["lr"] * hyper["weight_decay"] * param, kept
        return step, kept

    hyper = {
        "lr": lr, "beta1": betas[0], "beta2": betas[1], "eps": eps, "eps_root": eps_root, "weight_decay": weight_decay,
    }  # fmt: skip
    options = {"amsgrad": amsgrad, "maximize": maximize, "decoupled": decoupled}
    return per_leaf(init_leaf, update_leaf, hyper, "adamw" if decoupled else "adam", options)


@register_optimizer("adamw")
def adamw(
    lr: Any = 1e-3, betas: tuple[Any, Any] = (0.9, 0.999), eps: Any = 1e-8, *, weight_decay: Any = 0.01,
    eps_root: Any = 0.0, amsgrad: bool = False, maximize: bool = False,
) -> InnerOptimizer:  # fmt: skip
    """Adam with decoupled weight decay (Loshchilov and Hutter, ICLR 2019), with the options of adam."""
    return adam(
        lr, betas, eps, weight_decay=weight_decay, eps_root=eps_root, amsgrad=amsgrad, maximize=maximize, decoupled=True
    )

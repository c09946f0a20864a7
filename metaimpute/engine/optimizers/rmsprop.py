"""RMSprop, in torch.optim's form."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..pytree import Tree
from .base import Hyper, InnerOptimizer, Scaled, blend, decayed, is_zero, per_leaf, plus, register_optimizer, root
from .limits import require_real


@register_optimizer("rmsprop")
def rmsprop(
    lr: Any = 1e-2,
    alpha: Any = 0.99,
    eps: Any = 1e-8,
    *,
    weight_decay: Any = 0.0,
    momentum: Any = 0.0,
    eps_root: Any = 0.0,
    centered: bool = False,
    maximize: bool = False,
) -> InnerOptimizer:
    """RMSprop (Tieleman and Hinton, 2012), optionally centred (Graves, 2013) and with momentum.

    ``v <- alpha v + (1 - alpha) g^2``; ``s = g / (sqrt(v - a^2 + eps_root) + eps)`` with ``a`` the running mean of g when
    centred and 0 otherwise; ``b <- momentum b + s``; the step is ``-lr b``. Slopes at ``v = 0`` are as in adam.

    Hyperparameters that can be differentiated: lr, alpha, eps, eps_root, weight_decay, momentum.
    """

    def init_leaf(param: Tensor) -> Tree:
        require_real("rmsprop", param)
        zeros = torch.zeros_like(param, requires_grad=False)
        return {"square": zeros, "mean": zeros if centered else None, "buffer": None}

    def update_leaf(grad: Tensor, state: dict[str, Any], param: Tensor, hyper: Hyper) -> tuple[Scaled, Tree]:
        grad = decayed(grad, param, hyper, maximize)
        square = blend(state["square"], grad.square(), hyper["alpha"])
        mean, buffer, spread = state["mean"], state["buffer"], square
        if centered:
            mean = blend(mean, grad, hyper["alpha"])
            spread = square - mean.square()
        if not is_zero(hyper["eps_root"]):
            spread = spread + hyper["eps_root"]
        over = root(spread) + hyper["eps"]
        if is_zero(hyper["momentum"]):
            return Scaled(-hyper["lr"], grad, over), {"square": square, "mean": mean, "buffer": buffer}
        step = grad / over
        buffer = step if buffer is None else plus(step, hyper["momentum"], buffer)
        return Scaled(-hyper["lr"], buffer), {"square": square, "mean": mean, "buffer": buffer}

    hyper = {
        "lr": lr,
        "alpha": alpha,
        "eps": eps,
        "eps_root": eps_root,
        "weight_decay": weight_decay,
        "momentum": momentum,
    }
    return per_leaf(init_leaf, update_leaf, hyper, "rmsprop", {"centered": centered, "maximize": maximize})

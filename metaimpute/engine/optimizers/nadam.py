"""NAdam, in torch.optim's form."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..pytree import Tree
from .base import Hyper, InnerOptimizer, decayed, is_zero, per_leaf, register_optimizer, root
from .limits import require_betas, require_real


@register_optimizer("nadam")
def nadam(
    lr: Any = 2e-3, betas: tuple[Any, Any] = (0.9, 0.999), eps: Any = 1e-8, *, weight_decay: Any = 0.0,
    momentum_decay: Any = 4e-3, decoupled_weight_decay: bool = False, maximize: bool = False, eps_root: Any = 0.0,
) -> InnerOptimizer:  # fmt: skip
    """NAdam (Dozat, "Incorporating Nesterov momentum into Adam", ICLR workshop 2016).

    With ``mu_t = beta1 (1 - 0.96^(t momentum_decay) / 2)`` and ``m``, ``v`` as in adam, the step is
    ``-lr [(1 - mu_t) g / (1 - prod_{i<=t} mu_i) + mu_{t+1} m / (1 - prod_{i<=t+1} mu_i)] / (sqrt(v_hat + eps_root) + eps)``.
    Slopes at ``v = 0`` are as in adam. The product of the mu is kept in the parameter's precision (torch keeps it in float32
    unless torch's default type is another).

    Hyperparameters that can be differentiated: lr, beta1, beta2, eps, eps_root, weight_decay, momentum_decay.

    Raises:
        UnsupportedOptimizer: for a beta outside [0, 1), and at the first step for a complex parameter.
    """
    require_betas("nadam", betas)

    def init_leaf(param: Tensor) -> Tree:
        require_real("nadam", param)
        zeros = torch.zeros_like(param, requires_grad=False)
        return [0, torch.ones((), dtype=param.dtype, device=param.device), zeros, zeros]

    def update_leaf(grad: Tensor, state: list[Any], param: Tensor, hyper: Hyper) -> tuple[Tensor, Tree]:
        t, beta1, beta2 = state[0] + 1, hyper["beta1"], hyper["beta2"]
        if decoupled_weight_decay:
            grad = -grad if maximize else grad
        else:
            grad = decayed(grad, param, hyper, maximize)
        now, following = (beta1 * (1 - 0.5 * 0.96 ** (at * hyper["momentum_decay"])) for at in (t, t + 1))
        product = state[1] * now
        mean = beta1 * state[2] + (1 - beta1) * grad
        square = beta2 * state[3] + (1 - beta2) * grad.square()
        second = square / (1 - beta2**t)
        if not is_zero(hyper["eps_root"]):
            second = second + hyper["eps_root"]
        ahead = (1 - now) / (1 - product) * grad + following / (1 - product * following) * mean
        step = -hyper["lr"] * ahead / (root(second) + hyper["eps"])
        if decoupled_weight_decay and not is_zero(hyper["weight_decay"]):
            step = step - hyper["lr"] * hyper["weight_decay"] * param
        return step, [t, product, mean, square]

    hyper = {
        "lr": lr, "beta1": betas[0], "beta2": betas[1], "eps": eps, "eps_root": eps_root, "weight_decay": weight_decay,
        "momentum_decay": momentum_decay,
    }  # fmt: skip
    return per_leaf(init_leaf, update_leaf, hyper, "nadam", {"maximize": maximize, "decoupled": decoupled_weight_decay})

"""RAdam, in torch.optim's form."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..pytree import Tree
from .base import Hyper, InnerOptimizer, decayed, is_zero, per_leaf, register_optimizer, root
from .limits import require_betas, require_real


@register_optimizer("radam")
def radam(
    lr: Any = 1e-3, betas: tuple[Any, Any] = (0.9, 0.999), eps: Any = 1e-8, *, weight_decay: Any = 0.0,
    decoupled_weight_decay: bool = False, maximize: bool = False, eps_root: Any = 0.0,
) -> InnerOptimizer:  # fmt: skip
    """Rectified Adam (Liu et al., "On the variance of the adaptive learning rate and beyond", ICLR 2020).

    ``m``, ``v`` as in adam; ``rho = 2 / (1 - beta2) - 1`` and ``rho_t = rho - 2 t beta2^t / (1 - beta2^t)``. While ``rho_t <= 5``
    the step is ``-lr m_hat``, then ``-lr r_t m_hat sqrt(1 - beta2^t) / (sqrt(v + eps_root) + eps)`` with
    ``r_t^2 = (rho_t - 4)(rho_t - 2) rho / ((rho - 4)(rho - 2) rho_t)``. Slopes at ``v = 0`` are as in adam. Which of
    the two steps is taken is a constant to the derivative, also where beta2 is learned.

    Hyperparameters that can be differentiated: lr, beta1, beta2, eps, eps_root, weight_decay.

    Raises:
        UnsupportedOptimizer: for a beta outside [0, 1), and at the first step for a complex parameter.
    """
    require_betas("radam", betas)

    def init_leaf(param: Tensor) -> Tree:
        require_real("radam", param)
        zeros = torch.zeros_like(param, requires_grad=False)
        return [0, zeros, zeros]

    def update_leaf(grad: Tensor, state: list[Any], param: Tensor, hyper: Hyper) -> tuple[Tensor, Tree]:
        t, beta1, beta2 = state[0] + 1, hyper["beta1"], hyper["beta2"]
        if decoupled_weight_decay:
            grad = -grad if maximize else grad
        else:
            grad = decayed(grad, param, hyper, maximize)
        mean = beta1 * state[1] + (1 - beta1) * grad
        square = beta2 * state[2] + (1 - beta2) * grad.square()
        second = square if is_zero(hyper["eps_root"]) else square + hyper["eps_root"]
        plain, remaining = mean / (1 - beta1**t), 1 - beta2**t
        longest = 2 / (1 - beta2) - 1
        length = longest - 2 * t * (1 - remaining) / remaining

        def adaptive(length: Any, longest: Any) -> Tensor:
            rect = (length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length)
            scaled: Tensor = plain * (rect * remaining) ** 0.5 / (root(second) + hyper["eps"])
            return scaled

        if isinstance(length, Tensor):
            tractable = length > 5
            # lengths at which every slope is finite, in the branch that is not taken
            step = torch.where(
                tractable, adaptive(torch.where(tractable, length, 6.0), torch.where(tractable, longest, 6.0)), plain
            )
        else:
            step = adaptive(length, longest) if length > 5 else plain
        step = -hyper["lr"] * step
        if decoupled_weight_decay and not is_zero(hyper["weight_decay"]):
            step = step - hyper["lr"] * hyper["weight_decay"] * param
        return step, [t, mean, square]

    hyper = {
        "lr": lr, "beta1": betas[0], "beta2": betas[1], "eps": eps, "eps_root": eps_root, "weight_decay": weight_decay,
    }  # fmt: skip
    return per_leaf(init_leaf, update_leaf, hyper, "radam", {"maximize": maximize, "decoupled": decoupled_weight_decay})

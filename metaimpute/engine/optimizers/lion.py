"""Lion: the sign of an interpolated momentum."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..pytree import Tree
from .base import Hyper, InnerOptimizer, is_zero, per_leaf, register_optimizer
from .limits import require_betas, require_real


@register_optimizer("lion")
def lion(
    lr: Any = 1e-4, betas: tuple[Any, Any] = (0.9, 0.99), *, weight_decay: Any = 0.0, maximize: bool = False
) -> InnerOptimizer:
    """Lion (Chen et al., NeurIPS 2023): a sign, which carries no hypergradient through an inner gradient.

    The step is ``-lr (sign(beta1 m + (1 - beta1) g) + weight_decay p)``; then ``m <- beta2 m + (1 - beta2) g``.

    The derivative is that of the rule almost everywhere: a sign has slope 0, so nothing is carried through an inner gradient.
    What remains exact is the dependence on the start, on lr and on weight_decay; the hypergradient with respect to
    betas, and to a coupling that acts through the inner loss alone (imputed labels, weights of examples), is 0. To
    learn one of those take a rule with a slope, such as adam or sgd.

    Hyperparameters that can be differentiated: lr, weight_decay (and beta1, beta2, whose derivative is 0).

    Raises:
        UnsupportedOptimizer: for a beta outside [0, 1), and at the first step for a complex parameter.
    """
    require_betas("lion", betas)

    def init_leaf(param: Tensor) -> Tree:
        require_real("lion", param)
        return torch.zeros_like(param, requires_grad=False)

    def update_leaf(grad: Tensor, mean: Tensor, param: Tensor, hyper: Hyper) -> tuple[Tensor, Tree]:
        grad = -grad if maximize else grad
        step = -hyper["lr"] * torch.sign(hyper["beta1"] * mean + (1 - hyper["beta1"]) * grad)
        if not is_zero(hyper["weight_decay"]):
            step = step - hyper["lr"] * hyper["weight_decay"] * param
        return step, hyper["beta2"] * mean + (1 - hyper["beta2"]) * grad

    hyper = {"lr": lr, "beta1": betas[0], "beta2": betas[1], "weight_decay": weight_decay}
    return per_leaf(init_leaf, update_leaf, hyper, "lion", {"maximize": maximize, "decoupled": True})

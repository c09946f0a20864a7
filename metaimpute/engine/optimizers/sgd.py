"""Gradient descent, heavy-ball and Nesterov momentum: the rule of ``torch.optim.SGD``."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..pytree import Tree
from .base import (
    Hyper,
    InnerOptimizer,
    Leaf,
    Scaled,
    UnsupportedOptimizer,
    decayed,
    is_zero,
    per_leaf,
    plus,
    register_optimizer,
)


@register_optimizer("sgd")
def sgd(
    lr: Any,
    momentum: Any = 0.0,
    *,
    dampening: Any = 0.0,
    weight_decay: Any = 0.0,
    nesterov: bool = False,
    maximize: bool = False,
) -> InnerOptimizer:
    """Stochastic gradient descent with optional momentum.

    ``g <- g + weight_decay * p``; ``b <- momentum * b + (1 - dampening) * g`` (first step: ``b = g``);
    the step is ``-lr * b``, or ``-lr * (g + momentum * b)`` with ``nesterov`` (Sutskever et al., ICML 2013).

    Raises:
        UnsupportedOptimizer: for Nesterov momentum with dampening or without momentum, as torch does.
    """
    if nesterov and (is_zero(momentum) or not is_zero(dampening)):
        raise UnsupportedOptimizer("Nesterov momentum needs a momentum and zero dampening")

    def init_leaf(param: Tensor) -> Tree:
        return None  # the first step sets the buffer to the gradient itself

    def update_leaf(grad: Tensor, buffer: Leaf, param: Tensor, hyper: Hyper) -> tuple[Scaled, Leaf]:
        grad = decayed(grad, param, hyper, maximize)
        if is_zero(hyper["momentum"]):
            return Scaled(-hyper["lr"], grad), None
        if buffer is None:
            buffer = grad
        else:
            fresh = grad if is_zero(hyper["dampening"]) else (1 - hyper["dampening"]) * grad
            buffer = plus(fresh, hyper["momentum"], buffer)
        step = plus(grad, hyper["momentum"], buffer) if nesterov else buffer
        return Scaled(-hyper["lr"], step), buffer

    hyper = {"lr": lr, "momentum": momentum, "dampening": dampening, "weight_decay": weight_decay}
    label = "nesterov" if nesterov else "sgd" if is_zero(momentum) else "momentum"
    options = {"nesterov": nesterov, "maximize": maximize, "linear": True}  # in gradient, buffer and parameter
    return per_leaf(init_leaf, update_leaf, hyper, label, options)


@register_optimizer("momentum")
def momentum(
    lr: Any, momentum: Any = 0.9, *, dampening: Any = 0.0, weight_decay: Any = 0.0, nesterov: bool = False,
    maximize: bool = False,
) -> InnerOptimizer:  # fmt: skip
    """Heavy-ball momentum (Polyak, 1964), with the options of sgd."""
    return sgd(lr, momentum, dampening=dampening, weight_decay=weight_decay, nesterov=nesterov, maximize=maximize)


@register_optimizer("nesterov")
def nesterov(lr: Any, momentum: Any = 0.9, *, weight_decay: Any = 0.0, maximize: bool = False) -> InnerOptimizer:
    """Nesterov's accelerated gradient in torch's form, with the options of sgd but for dampening, which it cannot have."""
    return sgd(lr, momentum, weight_decay=weight_decay, nesterov=True, maximize=maximize)

"""Adafactor, in torch.optim's form."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..pytree import Tree
from .base import Hyper, InnerOptimizer, UnsupportedOptimizer, is_zero, per_leaf, register_optimizer, root
from .limits import require_real


def _least(x: Tensor, least: Any) -> Tensor:
    """``max(x, least)`` of a number or a tensor."""
    return torch.maximum(x, least.to(x)) if isinstance(least, Tensor) else x.clamp(min=least)


def _lesser(a: Any, b: Any) -> Any:
    """``min(a, b)`` of numbers or tensors."""
    if not isinstance(a, Tensor) and not isinstance(b, Tensor):
        return min(a, b)
    kind = a if isinstance(a, Tensor) else b
    return torch.minimum(*(torch.as_tensor(x, dtype=kind.dtype, device=kind.device) for x in (a, b)))


def _rms(x: Tensor) -> Tensor:
    return root(x.square().mean())


@register_optimizer("adafactor")
def adafactor(
    lr: Any = 1e-2, beta2_decay: Any = -0.8, eps: tuple[float | Tensor | None, float | Tensor] = (None, 1e-3), d: Any = 1.0,
    *, weight_decay: Any = 0.0, maximize: bool = False,
) -> InnerOptimizer:  # fmt: skip
    """Adafactor (Shazeer and Stern, ICML 2018), with a second moment of a row and a column per matrix.

    With ``b = t^beta2_decay``: ``r <- (1 - b) r + b mean_columns(g^2)``, ``c <- (1 - b) c + b mean_rows(g^2)`` over the last two
    dimensions, ``v = r c / max(mean(r), eps1)``; of a vector ``v <- (1 - b) v + b g^2``. Then ``u = g / sqrt(max(v,
    eps1^2))`` and the step is ``-min(lr, 1 / sqrt(t)) max(eps2, rms(p)) u / max(1, rms(u) / d) - lr weight_decay p``.
    ``eps`` is ``(eps1, eps2)``; eps1 None is the precision of the parameter's type.

    All of it is differentiated, the lengths too (torch takes them as numbers). Where ``v`` is below ``eps1^2`` the
    slope of the step is that of ``g / eps1``; of each maximum and minimum it is that of the side taken.

    Hyperparameters that can be differentiated: lr, beta2_decay, eps1 (unless None), eps2, d, weight_decay.

    Raises:
        UnsupportedOptimizer: for a positive beta2_decay, a d below 1, and at the first step for a complex parameter.
    """
    if isinstance(beta2_decay, int | float) and beta2_decay > 0:
        raise UnsupportedOptimizer(f"adafactor: beta2_decay must be at most 0, not {beta2_decay}")
    if isinstance(d, int | float) and d < 1:
        raise UnsupportedOptimizer(f"adafactor: d must be at least 1, not {d}")

    def init_leaf(param: Tensor) -> Tree:
        require_real("adafactor", param)
        zeros = torch.zeros_like(param, requires_grad=False)
        return [0, zeros.sum(-1, keepdim=True), zeros.sum(-2, keepdim=True)] if param.ndim > 1 else [0, zeros]

    def update_leaf(grad: Tensor, state: list[Any], param: Tensor, hyper: Hyper) -> tuple[Tensor, Tree]:
        t, grad = state[0] + 1, -grad if maximize else grad
        eps1 = hyper.get("eps1", torch.finfo(param.dtype).eps)
        fresh, squares = t ** hyper["beta2_decay"], grad.square()
        means = [squares.mean(-1, keepdim=True), squares.mean(-2, keepdim=True)] if param.ndim > 1 else [squares]
        kept = [(1 - fresh) * old + fresh * new for old, new in zip(state[1:], means, strict=True)]
        if param.ndim > 1:
            second = kept[0] @ kept[1] / _least(kept[0].mean(-2, keepdim=True), eps1)
        else:
            second = kept[0]
        direction = grad * _least(second, eps1 * eps1).rsqrt()
        lr = hyper["lr"]
        step = (
            -_lesser(lr, t**-0.5)
            * _least(_rms(param), hyper["eps2"])
            * direction
            / _least(_rms(direction) / hyper["d"], 1.0)
        )
        if not is_zero(hyper["weight_decay"]):
            step = step - lr * hyper["weight_decay"] * param
        return step, [t, *kept]

    hyper = {"lr": lr, "beta2_decay": beta2_decay, "eps2": eps[1], "d": d, "weight_decay": weight_decay}
    if eps[0] is not None:
        hyper["eps1"] = eps[0]
    options = {
        "maximize": maximize, "decoupled": True, "signed": frozenset({"beta2_decay"}), "mixes": ("adafactor",),
        "steep": ("eps1",),
    }  # fmt: skip
    return per_leaf(init_leaf, update_leaf, hyper, "adafactor", options)

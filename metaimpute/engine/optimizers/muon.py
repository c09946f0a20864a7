"""Muon, in torch.optim's form: momentum whose matrices are made orthogonal."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor

from ..pytree import Tree
from .adam import adamw
from .base import Hyper, InnerOptimizer, UnsupportedOptimizer, is_zero, per_leaf, register_optimizer, root
from .limits import require_betas, require_real

Adjust = Literal["original", "match_rms_adamw", "spectral_unclamped"]
FACTORS = {
    "original": lambda rows, columns: math.sqrt(max(1.0, rows / columns)),
    "match_rms_adamw": lambda rows, columns: 0.2 * math.sqrt(max(rows, columns)),
    "spectral_unclamped": lambda rows, columns: math.sqrt(rows / columns),
}


def orthogonal(matrix: Tensor, coefficients: tuple[Any, Any, Any], steps: int, eps: Any) -> Tensor:
    """Newton and Schulz's quintic iteration: ``X <- a X + (b X X^T + c (X X^T)^2) X`` from ``matrix / max(|matrix|, eps)``."""
    a, b, c = coefficients
    wide = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    length = root(wide.square().sum())
    x = wide / (torch.maximum(length, eps.to(length)) if isinstance(eps, Tensor) else length.clamp(min=eps))
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if matrix.shape[0] > matrix.shape[1] else x


@register_optimizer("muon")
def muon(
    lr: Any = 1e-3, weight_decay: Any = 0.1, momentum: Any = 0.95, *, nesterov: bool = True,
    ns_coefficients: tuple[Any, Any, Any] = (3.4445, -4.775, 2.0315), eps: Any = 1e-7, ns_steps: int = 5,
    adjust_lr_fn: Adjust = "original", bfloat16: bool = False, adamw_betas: tuple[Any, Any] = (0.9, 0.95), adamw_eps: Any = 1e-8,
) -> InnerOptimizer:  # fmt: skip
    """Muon (Jordan et al., 2024, kellerjordan.github.io/posts/muon) for matrices; adamw for parameters of other shapes.

    ``m <- momentum m + (1 - momentum) g``; ``u = momentum m + (1 - momentum) g`` with ``nesterov``, else m; the step is
    ``-lr f O(u) - lr weight_decay p``, with O by ``ns_steps`` of Newton and Schulz's iteration and f, by ``adjust_lr_fn``,
    ``sqrt(max(1, rows / columns))``, ``0.2 sqrt(max(rows, columns))`` or ``sqrt(rows / columns)``. What is no matrix
    moves by adamw with the same lr and weight_decay, as in optax; torch's class refuses it.

    ``bfloat16`` rounds the iteration as torch does. Its value is then torch's, and its derivative that of the iteration without
    the rounding, at the same matrix. Without (the default here) all is in the parameter's precision. Where a gradient is 0
    the slope of ``|u|`` is taken as 0, which gives the step its true slope there.

    Hyperparameters that can be differentiated: lr, weight_decay, momentum, ns_a, ns_b, ns_c (the coefficients), eps, beta1 and
    beta2 (``adamw_betas``), adamw_eps.

    Raises:
        UnsupportedOptimizer: for an ``adjust_lr_fn`` or a number of steps that there is not, a beta outside [0, 1), and at
            the first step for a complex parameter.
    """
    if adjust_lr_fn not in FACTORS:
        raise UnsupportedOptimizer(f"muon: adjust_lr_fn is {', '.join(FACTORS)}, not {adjust_lr_fn!r}")
    if not isinstance(ns_steps, int) or isinstance(ns_steps, bool) or not 0 <= ns_steps < 100:
        raise UnsupportedOptimizer(f"muon: ns_steps is a whole number from 0 to 99, not {ns_steps!r}")
    if len(ns_coefficients) != 3:
        raise UnsupportedOptimizer(f"muon: ns_coefficients are 3, not {len(ns_coefficients)}")
    require_betas("muon", adamw_betas)
    others = adamw()

    def init_leaf(param: Tensor) -> Tree:
        require_real("muon", param)
        return torch.zeros_like(param, requires_grad=False) if param.ndim == 2 else others.init([param])[0]

    def update_leaf(grad: Tensor, state: Any, param: Tensor, hyper: Hyper) -> tuple[Tensor, Tree]:
        if param.ndim != 2:
            given = {**hyper, "eps": hyper["adamw_eps"], "eps_root": 0.0}
            step, after = others.update([grad], [state], [param], given)
            return step[0], after[0]
        momentum = hyper["momentum"]
        mean = momentum * state + (1 - momentum) * grad
        ahead = momentum * mean + (1 - momentum) * grad if nesterov else mean
        straight = orthogonal(ahead, (hyper["ns_a"], hyper["ns_b"], hyper["ns_c"]), ns_steps, hyper["eps"])
        if bfloat16:
            straight = straight + (_rounded(ahead, hyper, ns_steps).to(straight) - straight).detach()
        step = -hyper["lr"] * FACTORS[adjust_lr_fn](*param.shape) * straight
        if not is_zero(hyper["weight_decay"]):
            step = step - hyper["lr"] * hyper["weight_decay"] * param
        return step, mean

    a, b, c = ns_coefficients
    hyper = {
        "lr": lr, "weight_decay": weight_decay, "momentum": momentum, "ns_a": a, "ns_b": b, "ns_c": c, "eps": eps,
        "beta1": adamw_betas[0], "beta2": adamw_betas[1], "adamw_eps": adamw_eps,
    }  # fmt: skip
    options = {
        "nesterov": nesterov, "ns_steps": ns_steps, "adjust_lr_fn": adjust_lr_fn, "bfloat16": bfloat16, "decoupled": True,
        "signed": frozenset({"ns_a", "ns_b", "ns_c"}), "mixes": ("muon",), "steep": ("eps", "adamw_eps"),
    }  # fmt: skip
    return per_leaf(init_leaf, update_leaf, hyper, "muon", options)


def _rounded(matrix: Tensor, hyper: Hyper, steps: int) -> Tensor:
    """The iteration in bfloat16, operation by operation as in torch.optim.Muon."""
    a, b, c, eps = (float(hyper[key]) for key in ("ns_a", "ns_b", "ns_c", "eps"))
    with torch.no_grad():
        x = matrix.bfloat16()
        x = x.T if matrix.shape[0] > matrix.shape[1] else x
        x = x / x.norm().clamp(min=eps)
        for _ in range(steps):
            gram = x @ x.T
            x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
        return x.T if matrix.shape[0] > matrix.shape[1] else x

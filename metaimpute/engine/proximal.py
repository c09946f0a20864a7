"""Proximal operators and projections, on tensors, with the derivative that a fixed point needs at their kinks.

``prox_f(z) = argmin_x |x - z|^2 / 2 + f(x)``. Each is composed of torch's own operations, whose derivative is an element of the
generalised Jacobian: away from a kink it is the derivative; **at a kink an entry counts as held** (zero, at its bound, its group
off), so that it depends on neither z nor the other entries. A fixed point of :func:`proximal_gradient` then has the derivative
of the problem restricted to the entries that move, which is the solution's wherever a strict complementarity holds (Bertrand et
al., "Implicit differentiation for fast hyperparameter selection in non-smooth convex learning", JMLR 2022).

All raise ValueError for a strength, radius or total that is negative, or for a box without room.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .implicit_functions.stationarity import gradient_of
from .pytree import Tree, tensors, with_tensors

Amount = Tensor | float


def _require(name: str, amount: Amount, positive: bool = False) -> None:
    """Raises:
    ValueError: for a number, or a tensor with an entry, that is negative or none, or 0 where that has no meaning."""
    if isinstance(amount, Tensor) and torch._C._functorch.is_functorch_wrapped_tensor(amount):
        return  # whose values are those of several problems
    fits = amount > 0 if positive else amount >= 0
    if not (fits.all() if isinstance(fits, Tensor) else fits):
        raise ValueError(f"{name} must be {'positive' if positive else 'at least 0'}, not {amount}")


def prox_l1(z: Tensor, strength: Amount) -> Tensor:
    """Soft threshold: of ``strength * |x|_1``; a strength per entry is broadcast."""
    _require("strength", strength)
    return z.sign() * (z.abs() - strength).relu()


def prox_elastic_net(z: Tensor, l1: Amount, l2: Amount) -> Tensor:
    """Of ``l1 * |x|_1 + l2 / 2 * |x|^2``."""
    _require("1 + l2", 1 + l2, positive=True)
    return prox_l1(z, l1) / (1 + l2)


def prox_group_lasso(z: Tensor, strength: Amount) -> Tensor:
    """Of ``strength * sum of the rows' Euclidean norms``; rows are the last dimension, which a strength per row has not."""
    _require("strength", strength)
    squared = z.square().sum(-1)
    threshold = torch.as_tensor(strength, dtype=z.dtype, device=z.device)
    moves = squared > threshold.square()
    length = torch.where(moves, squared, torch.ones_like(squared)).sqrt()
    return z * torch.where(moves, 1 - threshold / length, torch.zeros_like(length))[..., None]


def project_nonnegative(z: Tensor) -> Tensor:
    """The nearest point without negative entries."""
    return z.relu()


def project_box(z: Tensor, lower: Amount, upper: Amount) -> Tensor:
    """The nearest point with ``lower <= x <= upper``, entry by entry."""
    low = torch.as_tensor(lower, dtype=z.dtype, device=z.device).expand_as(z)
    high = torch.as_tensor(upper, dtype=z.dtype, device=z.device).expand_as(z)
    _require("upper - lower", high - low)
    return torch.where(z <= low, low, torch.where(z >= high, high, z))


def project_simplex(z: Tensor, total: Amount = 1.0) -> Tensor:
    """The nearest point with ``x >= 0`` and ``x.sum(-1) == total``, rows apart (Duchi et al., ICML 2008)."""
    _require("total", total, positive=True)
    ordered = z.sort(dim=-1, descending=True).values
    above = (ordered.cumsum(-1) - total) / torch.arange(1, z.shape[-1] + 1, dtype=z.dtype, device=z.device)
    count = (ordered > above).sum(-1, keepdim=True)
    return (z - above.gather(-1, count - 1)).relu()


def project_l2_ball(z: Tensor, radius: Amount = 1.0) -> Tensor:
    """The nearest point with a Euclidean norm of at most ``radius``, rows (the last dimension) apart."""
    _require("radius", radius, positive=True)
    squared, bound = z.square().sum(-1, keepdim=True), torch.as_tensor(radius, dtype=z.dtype, device=z.device)
    outside = squared >= bound.square()
    length = torch.where(outside, squared, torch.ones_like(squared)).sqrt()
    return z * torch.where(outside, bound / length, torch.ones_like(length))


def proximal_gradient(objective: Callable[..., Tensor], prox: Callable[..., Tree], step: Amount) -> Callable[..., Tree]:
    """``(x, *args) -> prox(x - step * d objective / dx, step, *args)``, for ``fixed_point_fn=`` and as an iteration (ISTA).

    Args:
        objective: the smooth part, ``(x, *args) -> scalar``. prox: ``(z, step, *args) -> tree in the shape of x``, of ``step``
            times the other part, e.g. ``lambda z, step, strength: prox_l1(z, step * strength)``. step: at most 1 / (largest
            eigenvalue).
    """
    slope = gradient_of(objective)

    def moved(x: Tree, *args: Any) -> Tree:
        pairs = zip(tensors(x), tensors(slope(x, *args)), strict=True)
        return prox(with_tensors(x, [leaf - step * g for leaf, g in pairs]), step, *args)

    return moved

"""Products with the inner loss's second derivatives: forward over reverse where torch can be trusted with it, else reverse twice.

For a direction w in the parameters (and d in the coupling) the tangents of ``grad_theta L`` and ``grad_c L`` come together from
one reverse pass over dual numbers (Pearlmutter 1994). Where only the coupling's side is wanted, the reverse pass runs through
nothing but what depends on the coupling, which for imputed labels is a few operations: one forward-mode pass is all there is to
pay. No graph of a gradient is built, so memory is that of ordinary training.

Torch has no forward-mode formula for some operators, and for others one that gives wrong numbers here (:mod:`.operators`). A
product through any of these is the gradient of ``<grad_theta L, w> + <grad_c L, d>`` instead, the same number at the price of
``exact``; which operator was in the way is kept in the problem's ledger and shown under ``diagnostics["reverse_over_reverse"]``.

The products use ``torch.autograd.forward_ad`` and not ``torch.func.jvp``: inside torch.func, dropout fills its mask in
logical order, outside in memory order, so on a transposed input the same seed gives another mask and the replayed step
would silently be a different function.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad

from .ambient import CannotDifferentiate, NoGradStopsTangents, forward_mode, forward_mode_available
from .losses import NotScalar
from .operators import require_second_derivative, untrusted
from .pytree import (
    Tree,
    as_leaves,
    detach,
    dot,
    filled,
    gradient,
    leaves_of,
    map_tensors,
    none_as_zeros,
    tensors,
    with_tensors,
    zeros_like,
)
from .repetition import NotRepeatable
from .unroll import TAKEN, BilevelMap

_SMALL = 1 << 14  # entries


def _dual(tree: Tree, direction: Tree, *, requires_grad: bool) -> tuple[Tree, Tree]:
    """The tree as fresh leaves, and as dual numbers ``leaf + eps * direction`` on top of those leaves."""
    leaves = [leaf.detach().requires_grad_(requires_grad) for leaf in tensors(tree)]
    duals = [forward_ad.make_dual(leaf, w) for leaf, w in zip(leaves, tensors(direction), strict=True)]
    return with_tensors(tree, leaves), with_tensors(tree, duals)


def unmoved(leaf: Tensor) -> Tensor:
    """A small leaf as a dual number with a tangent of zeros.

    Without a tangent torch looks in Python for the shape of the zeros that stand for it, 0.1 ms an operation; in a large leaf,
    a network's weights, zeros would be multiplied for nothing.
    """
    return leaf if leaf.numel() > _SMALL else forward_ad.make_dual(leaf, torch.zeros_like(leaf))


def solid(tensor: Tensor) -> Tensor:
    """The tensor with a place for every entry: autograd has some that are zero throughout, or repeat themselves, without."""
    return tensor.clone() if tensor._is_zerotensor() or 0 in tensor.stride() else tensor


def _tangents(slopes: Tree, values: Tree) -> Tree:
    """The slopes' tangents, zeros where a slope does not depend on the direction or is None."""
    found = []
    for slope, value in zip(leaves_of(slopes), leaves_of(values), strict=True):
        tangent = forward_ad.unpack_dual(slope).tangent if isinstance(slope, Tensor) and slope is not value else None
        found.append(zeros_like(value) if tangent is None else solid(tangent).detach())
    return filled(values, found)


def _primal(value: Tensor) -> Tensor:
    return solid(forward_ad.unpack_dual(value).primal.detach())


class Product(NamedTuple):
    """A product and what comes with it.

    Attributes:
        theta, c: derivatives of ``grad_theta L`` and ``grad_c L`` along the direction; None where not wanted.
        slopes: ``grad_theta L`` itself, None where the loss does not depend on a parameter; None where ``theta`` is not wanted.
        loss: the inner loss, a scalar without graph.
    """

    theta: Tree
    c: Tree
    slopes: Tree
    loss: Tensor


class _NotTrusted(Exception):
    """The operator through which forward mode must not go."""


def product(
    problem: BilevelMap,
    t: int,
    theta: Tree,
    c: Tree,
    along_theta: Tree,
    along_c: Tree = None,
    *,
    wrt_theta: bool = True,
    wrt_c: bool = True,
    point: str = TAKEN,
) -> Product:
    """Derivatives of ``grad_theta L`` and ``grad_c L`` of step ``t`` along a direction, in the shapes of ``theta`` and ``c``.

    Args:
        along_theta, along_c: the direction; None: no movement of the coupling.
        wrt_theta, wrt_c: which of the two is wanted; the other is None.
        point: where the evaluation is, for the problem's ledger.

    Raises:
        CannotDifferentiate: when torch has no right second derivative of the loss.
    """
    ledger = problem.ledger
    if ledger.reverse_only is None and not forward_mode_available():
        ledger.reverse_only = "a level of forward mode that is open already"
    if ledger.reverse_only is None:
        try:
            return _forward_over_reverse(problem, t, theta, c, along_theta, along_c, wrt_theta, wrt_c, point)
        except (CannotDifferentiate, NotRepeatable, NotScalar):
            raise
        except _NotTrusted as operator:
            ledger.reverse_only = str(operator)
        except Exception as error:  # torch raises many kinds; what is the loss's own mistake comes again below
            ledger.reverse_only = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
    return _reverse_over_reverse(problem, t, theta, c, along_theta, along_c, wrt_theta, wrt_c, point)


def _forward_over_reverse(
    problem: BilevelMap,
    t: int,
    theta: Tree,
    c: Tree,
    along_theta: Tree,
    along_c: Tree,
    wrt_theta: bool,
    wrt_c: bool,
    point: str,
) -> Product:
    with forward_mode():
        leaves, dual = _dual(theta, along_theta, requires_grad=wrt_theta)
        if along_c is None:
            c_leaves = as_leaves(c) if wrt_c else detach(c)
            c_dual = map_tensors(unmoved, c_leaves) if wrt_c else c_leaves
        else:
            c_leaves, c_dual = _dual(c, along_c, requires_grad=wrt_c)
        whole = wrt_theta or along_c is not None
        with NoGradStopsTangents():
            loss = (problem.inner if whole else problem.coupled)(t, dual, c_dual, point)
        operator = untrusted(loss)
        if operator is not None:
            raise _NotTrusted(operator)
        wanted = {"theta": leaves if wrt_theta else None, "c": c_leaves if wrt_c else None}
        slopes = gradient(loss, wanted, unused="none", cotangent=unmoved(torch.ones_like(loss.detach())))
        tangents = _tangents(slopes, wanted)
        return Product(tangents["theta"], tangents["c"], map_tensors(_primal, slopes["theta"]), _primal(loss))


def _reverse_over_reverse(
    problem: BilevelMap,
    t: int,
    theta: Tree,
    c: Tree,
    along_theta: Tree,
    along_c: Tree,
    wrt_theta: bool,
    wrt_c: bool,
    point: str,
) -> Product:
    at, c = as_leaves(theta), as_leaves(c)
    loss = problem.inner(t, at, c, point)
    require_second_derivative(loss, tensors((at, c)))
    slopes = gradient(loss, {"theta": at, "c": None if along_c is None else c}, create_graph=True, unused="none")
    slope = dot(none_as_zeros(slopes["theta"], at), along_theta)
    if along_c is not None:
        slope = slope + dot(none_as_zeros(slopes["c"], c), along_c)
    found = gradient(slope, {"theta": at if wrt_theta else None, "c": c if wrt_c else None})
    own = map_tensors(lambda slope: solid(slope.detach()), slopes["theta"]) if wrt_theta else None
    return Product(found["theta"], found["c"], own, loss.detach())

"""Losses that reach nothing of what they are given, as one that calls its own module does, are refused: all would come out as 0.

Looked for only where the result says so: parameters that stand after all steps where they stood before them, and gradients that
are 0 throughout. What is right all the same (a stationary start, a learning rate of 0) then costs one more evaluation. On an
accelerator a look at a number would wait for all that is under way: there parameters are known by their place in memory, and the
gradients of an outer loss are looked at once in a process for each function.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..ambient import CannotDifferentiate
from ..pytree import Tree, as_leaves, gradient, tensors
from ..repetition import rebuilding
from ..sharded import shards_of
from ..unroll import NO_OUTER_REACH, NO_REACH, BilevelMap
from .result import HypergradientResult

_looked_at: set[Any] = set()  # code and types of outer losses


def require_reach(problem: BilevelMap, theta_k: Tree, result: HypergradientResult | None = None) -> None:
    """Looks for losses without influence where the end of the steps and the gradients look like it.

    Args:
        result: None: no gradient was asked for.

    Raises:
        CannotDifferentiate: for an inner loss that depends on no parameter in any step, and an outer loss that depends on neither
            the parameters nor the coupling.
    """
    if shards_of(problem.inner_loss, problem.outer_loss) is not None:  # of which each process sees its own part
        return
    if _stood_still(problem.theta_0, theta_k) and not any(_moves(problem, t) for t in problem.moves):
        raise CannotDifferentiate(NO_REACH)
    found = [] if result is None else tensors((result.grad_c, result.grad_theta_0, result.grad_optimizer))
    if not found:
        return
    if not all(map(at_hand, found)):
        key = getattr(problem.outer_loss, "__code__", type(problem.outer_loss))
        if key in _looked_at:
            return
        _looked_at.add(key)
    if any(bool(slope.detach().any()) for slope in found):
        return
    at = as_leaves({"theta": theta_k, "c": problem.c})
    with torch.enable_grad(), rebuilding():
        outer = problem.outer(at["theta"], at["c"], point=None)
        slopes = gradient(outer, [leaf for leaf in tensors(at) if leaf.requires_grad], unused="none")
    if all(slope is None for slope in slopes):
        raise CannotDifferentiate(NO_OUTER_REACH)


def at_hand(leaf: Tensor) -> bool:
    """Whether a tensor can be looked at without waiting for a device."""
    return leaf.is_cpu


def _stood_still(start: Tree, end: Tree) -> bool:
    """Whether all is to the bit where it was; small tensors are looked at first, of which one will mostly have moved."""
    pairs = sorted(zip(tensors(start), tensors(end), strict=True), key=lambda pair: pair[0].numel())
    return all(a.data_ptr() == b.data_ptr() or (at_hand(a) and at_hand(b) and torch.equal(a, b)) for a, b in pairs)


def _moves(problem: BilevelMap, t: int) -> bool:
    """Whether the inner loss of call ``t`` depends on a parameter."""
    if not problem.optimizer.stages[t % len(problem.optimizer.stages)]:
        return False
    at = as_leaves(problem.theta_0)
    with torch.enable_grad(), rebuilding():
        slopes = gradient(problem.inner(t, at, problem.c, point=None), tensors(at), unused="none")
    return any(slope is not None for slope in slopes)

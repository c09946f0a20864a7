"""Hypergradients that Adam's slope at zero gradients dominates, told by what they promise.

A step of an Adam is about ``lr`` long, whatever the gradient; its slope at a gradient of zero is ``lr / eps``. One entry near
zero can so outweigh all others, and the hypergradient is right, to first order, for changes of the coupling of the size of
``eps`` alone. It shows in numbers: a change of the coupling by its own size would by this slope move the outer loss by
``norm(grad_c) * norm(c)``, and k steps, which move no entry further than about ``2 k lr``, can move it by
``2 k lr * sum |d outer / d theta|``.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..optimizers import InnerOptimizer
from ..optimizers.base import is_zero
from ..pytree import Tree, as_leaves, detach, gradient, norm, tensors
from ..repetition import rebuilding
from ..unroll import BilevelMap

BEYOND = 1e3  # times what the steps can do
_NUMBERED = re.compile(r"_\d+$")
SUSPECT = 1e4  # times k lr max(1, |outer loss|): without the gradient of the outer loss


def has_steep_zero(rule: InnerOptimizer) -> bool:
    """Whether it is one of the Adams (or Adagrad, RMSprop) whose root nothing is added to, or says so by its option ``steep``."""
    return bool(_roots(rule) or rule.options.get("steep"))


def _roots(rule: InnerOptimizer) -> list[str]:
    """Names of what is added to a root, where nothing is; a partition numbers them."""
    return [key for key, value in rule.hyper.items() if _NUMBERED.sub("", key) == "eps_root" and is_zero(value)]


def _way_out(rule: InnerOptimizer) -> str:
    larger = " and ".join(dict.fromkeys(rule.options.get("steep", ())))
    roots = "a rule with eps_root=1e-8 or so, or a larger eps" if _roots(rule) else ""
    return "take " + ", and ".join(way for way in (roots, f"a larger {larger}" if larger else "") if way)


def largest_rate(rule: InnerOptimizer) -> float:
    """The largest learning rate among a rule's: numbers, tensors, by name or by step; 1 where it keeps them elsewhere."""
    found = [value for key, value in rule.hyper.items() if _NUMBERED.sub("", key) == "lr"]
    values = [one for value in found for one in (value.values() if isinstance(value, Mapping) else [value])]
    flat = [one for value in values for one in (value if isinstance(value, list | tuple) else [value])]
    rates = [
        float(one.detach().abs().max()) if isinstance(one, Tensor) else float(one) for one in flat if one is not None
    ]
    return max(rates, default=0.0) or 1.0


def warn_where_steep(
    problem: BilevelMap, grad_c: Tree, theta_k: Tree, outer: Tensor, diagnostics: dict[str, Any]
) -> None:
    """Warns of such a hypergradient; ``diagnostics["steep"]`` says how far it is beyond what the steps can do."""
    size = norm(detach(grad_c))
    if not tensors(grad_c) or size.is_meta:
        return
    lr, own = largest_rate(problem.optimizer), float(norm(detach(problem.c)))
    promised = float(size) * (own or 1.0)
    if not SUSPECT * problem.steps * lr * max(1.0, abs(float(outer.detach()))) < promised < float("inf"):
        return
    at = as_leaves(theta_k)
    with torch.enable_grad(), rebuilding():
        slopes = gradient(problem.outer(at, problem.c, point=None), at)
    possible = 2 * problem.steps * lr * sum(float(g.abs().sum()) for g in tensors(slopes))
    if promised <= BEYOND * possible:
        return
    diagnostics["steep"] = promised / possible if possible else float("inf")
    warnings.warn(
        f"entries whose inner gradient is (nearly) zero dominate this hypergradient: {problem.optimizer.label}'s slope there is "
        f"lr / eps, right for changes of the size of eps alone; {_way_out(problem.optimizer)}",
        stacklevel=2,
    )

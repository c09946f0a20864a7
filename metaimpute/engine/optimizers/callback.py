"""One's own function of the inner gradients, as a part of a chain."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from ..pytree import Tree, leaves_of
from .base import Hyper, UnsupportedOptimizer
from .transforms import Transform


def gradient_callback(function: Callable[[Tree], Tree | None], *, per_entry: bool = False) -> Transform:
    """Hands the gradients to a function on their way to the rule: ``chain(gradient_callback(function), sgd(0.1))``.

    Args:
        function: of the tree of gradients, in the shape of the parameters (None for one that took no part). It returns a
            tree of the same shape, through which is differentiated, or None to leave them as they are: only looked at. It
            is called whenever an estimator goes through the rule, which may be more than once a step, and must give the
            same each time (refused otherwise, where it is called again); noise of torch's global generator is replayed.
        per_entry: whether it treats each entry by itself, so that stacked problems stay apart.

    Raises:
        UnsupportedOptimizer: at a step, for a result of another shape.
    """

    def update(grads: Tree, state: Tree, params: Tree, hyper: Hyper) -> tuple[Tree, Tree]:
        found = function(grads)
        if found is None:
            return grads, state
        shapes = [[_shape(leaf) for leaf in leaves_of(tree)] for tree in (found, grads)]
        if shapes[0] != shapes[1]:
            raise UnsupportedOptimizer(
                f"the gradient callback returned {shapes[0]} where it was given {shapes[1]}; return tensors of the same shapes, "
                "in the same tree, or None"
            )
        return found, state

    return Transform(lambda params: None, update, {}, "gradient_callback", per_entry=per_entry)


def _shape(leaf: Any) -> Any:
    return list(leaf.shape) if isinstance(leaf, Tensor) else type(leaf).__name__

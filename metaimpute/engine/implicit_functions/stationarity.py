"""The gradient of an objective as a function that can itself be differentiated."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..ambient import CannotDifferentiate
from ..operators import require_second_derivative
from ..pytree import Tree, gradient, tensors, with_tensors
from ..unroll import of_its_own


def gradient_of(objective: Callable[..., Tensor]) -> Callable[..., Tree]:
    """``(x, *args) -> d objective / dx``, which can be differentiated where gradients are recorded."""

    def slope(x: Tree, *args: Any) -> Tree:
        recorded = torch.is_grad_enabled()
        with torch.enable_grad():
            at = with_tensors(x, [of_its_own(leaf) for leaf in tensors(x)])
            value = objective(at, *args)
            if not isinstance(value, Tensor) or value.numel() != 1:
                what = f"a tensor of shape {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
                raise CannotDifferentiate(f"objective= returns one number, not {what}")
            if recorded:
                require_second_derivative(value, tensors(at))
            return gradient(value.reshape(()), at, create_graph=recorded)

    return slope

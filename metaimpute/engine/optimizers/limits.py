"""What hyperparameters and parameters of a rule may be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from .base import UnsupportedOptimizer


def require_betas(label: str, betas: Sequence[Any], name: str = "betas") -> None:
    """Raises:
    UnsupportedOptimizer: for a number among them outside [0, 1)."""
    for beta in betas:
        if not isinstance(beta, Tensor | Mapping) and not 0 <= beta < 1:
            raise UnsupportedOptimizer(f"{label}: {name} must lie in [0, 1), not {beta}")


def require_real(label: str, param: Tensor) -> None:
    """Raises:
    UnsupportedOptimizer: for a complex parameter."""
    if param.is_complex():
        raise UnsupportedOptimizer(f"{label} moves real parameters; pass complex ones as torch.view_as_real(...)")

"""Losses that a ``GradScaler`` has scaled: a step down such a loss would be thousands of times too long."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from torch import Tensor
from torch.amp import grad_scaler

_SCALED = "scaled"


@contextlib.contextmanager
def scaled_losses_marked() -> Iterator[None]:
    """What a scaler returns in this block is known by :func:`is_scaled`."""
    kind: Any = grad_scaler.GradScaler
    original = kind.scale

    def scale(scaler: Any, outputs: Any) -> Any:
        found = original(scaler, outputs)
        for out in found if isinstance(found, list | tuple) else [found]:
            node: Any = getattr(out, "grad_fn", None)
            if scaler.is_enabled() and node is not None:
                node.metadata[_SCALED] = True
        return found

    kind.scale = scale
    try:
        yield
    finally:
        kind.scale = original


def is_scaled(loss: Tensor) -> bool:
    """Whether a scaler returned it."""
    node: Any = loss.grad_fn
    return node is not None and node.name() == "MulBackward0" and _SCALED in node.metadata

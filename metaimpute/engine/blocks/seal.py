"""Whether a block's weights are as its last step left them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..ambient import CannotDifferentiate


class Seal:
    """Weights as they are now.

    In-place operations count a tensor's version up; through ``.data`` they do not, so lengths are held against each other too: on
    the CPU at once, elsewhere, where each look would wait for the device, when the block ends.

    Args:
        late: findings of an accelerator, gathered over a block's steps.
    """

    def __init__(self, params: Mapping[str, Tensor], late: list[Tensor]) -> None:
        self._params, self._late = params, late
        self._marks = [(p._version, p.data_ptr(), p.dtype) for p in params.values()]
        self._lengths = _lengths(params)

    def require_whole(self) -> None:
        """Raises:
        CannotDifferentiate: for a weight that was changed."""
        for mark, (name, p) in zip(self._marks, self._params.items(), strict=True):
            if (p._version, p.data_ptr(), p.dtype) != mark:
                _refuse(name)
        for (name, p), before, now in zip(self._params.items(), self._lengths, _lengths(self._params), strict=True):
            differs = abs(before - now) > 64 * torch.finfo(p.dtype).eps * before
            if isinstance(differs, Tensor):
                self._late.append(differs)
            elif differs:
                _refuse(name)


def require_none(late: list[Tensor]) -> None:
    """Raises:
    CannotDifferentiate: where one of the late findings says so."""
    if any(found.any() for found in late):
        _refuse(None)


def _lengths(params: Mapping[str, Tensor]) -> list[Any]:
    """Euclidean norms, as numbers where they are on the CPU."""
    found = torch._foreach_norm([p.detach() for p in params.values()]) if params else ()
    return [length.item() if length.is_cpu else length for length in found]


def _refuse(name: str | None) -> None:
    which = "a weight" if name is None else f"'{name}'"
    raise CannotDifferentiate(
        f"{which} was changed in place inside the block, which no gradient would see; say inner.replace({{name: new}}) with "
        "what it is to become, a tensor computed from model.parameters()"
    )

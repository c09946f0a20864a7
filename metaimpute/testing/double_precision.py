"""Losses written for float32, evaluated in float64: tensors are widened on their way into every operation.

Finite differences of a float32 loss have three digits at best. A user's loss holds float32 data in closures and modules, which
cannot be found and converted; what it does with them can be.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ..engine.ambient import autocast_off

_NARROW = {torch.float32, torch.float16, torch.bfloat16}
_CASTS = {torch.Tensor.float, torch.Tensor.half, torch.Tensor.bfloat16}
_PASSED_BY = {"__get__", "__set__", "requires_grad_", "_make_dual", "_unpack_dual", "data_ptr", "copy_"}


class _Widening(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") in _PASSED_BY:
            return func(*args, **(kwargs or {}))
        if func in _CASTS:
            return args[0].double()
        return func(*_widened(args), **{name: _widened(value) for name, value in (kwargs or {}).items()})


def _widened(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.double() if value.dtype in _NARROW else value
    if isinstance(value, torch.dtype):
        return torch.float64 if value in _NARROW else value
    if type(value) in (list, tuple):
        return type(value)(map(_widened, value))
    return value


@contextlib.contextmanager
def double_precision() -> Iterator[None]:
    """Everything torch computes from Python in this block is float64, autocast off."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with _Widening(), autocast_off():
            yield
    finally:
        torch.set_default_dtype(before)

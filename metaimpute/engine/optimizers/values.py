"""What numbers a rule's hyperparameters may be."""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import isfinite
from typing import Any

from torch import Tensor

from .names import UnsupportedOptimizer

_BETA = re.compile(r"beta[12](_\d+)?")


def require_hyper(label: str, hyper: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """The hyperparameters, checked, with numpy's numbers as Python's. A rule's option ``signed`` names those of any sign.

    Raises:
        UnsupportedOptimizer: for one that is no finite number of at least 0, no tensor and no dict of them.
    """
    signed = options.get("signed", ())
    return {key: _checked(label, key, value, key in signed) for key, value in hyper.items()}


def _checked(label: str, key: str, value: Any, signed: bool) -> Any:
    if not isinstance(value, Mapping):
        return _number(label, key, value, signed)
    found = {name: _number(label, key, number, signed) for name, number in value.items()}
    return value if all(found[name] is number for name, number in value.items()) else found


def _number(label: str, key: str, number: Any, signed: bool) -> Any:
    kind = getattr(getattr(number, "dtype", None), "kind", None)  # of numpy's arrays and numbers
    is_number = isinstance(number, Tensor | int | float) or (
        hasattr(number, "__float__") if kind is None else kind in "fiu" and not number.ndim
    )
    if not is_number or (isinstance(number, Tensor) and number.is_complex()):
        shape = getattr(number, "shape", ())
        found = f"a {type(number).__name__}" if not shape else f"a {type(number).__name__} of shape {list(shape)}"
        if isinstance(number, Tensor):
            found = "a complex tensor"
        way = f"torch.as_tensor({key}) makes a tensor of an array" if shape and kind in tuple("fiu") else None
        raise UnsupportedOptimizer(
            f"{label}: {key} is a number, a tensor or a dict with one of them per parameter name, not {found}; "
            f"{way or f'for one value per step there is per_step(rule, {key}=[...])'}"
        )
    if isinstance(number, Tensor):
        return number
    number = number if kind is None else number.item()
    if not (isfinite(number) and (number >= 0 or signed)):
        limit = "" if signed else " of at least 0"
        raise UnsupportedOptimizer(f"{label}: {key} must be a finite number{limit}, not {number}")
    if number >= 1 and _BETA.fullmatch(key):
        raise UnsupportedOptimizer(f"{label}: {key} must lie in [0, 1), not {number}")
    return number

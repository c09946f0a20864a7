"""How a class of torch.optim maps to one of our rules."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..pytree import Tree
from .base import Hyper, InnerOptimizer

State = dict[str, Any]


@dataclass(frozen=True)
class Twin:
    """How one torch class maps to one of our rules.

    Attributes:
        values: our hyperparameters from a parameter group. flags: options that must agree over groups. build: our rule
            from the flags and the hyperparameters. state: our per-parameter state from torch's, or None where it has none.
        keys: keys of a group that hold hyperparameters.
    """

    values: Callable[[dict[str, Any]], Hyper]
    flags: tuple[str, ...]
    build: Callable[[dict[str, Any], Hyper], InnerOptimizer]
    state: Callable[[State, Tensor, dict[str, Any]], Tree]
    keys: frozenset[str]


def pick(*keys: str) -> Callable[[dict[str, Any]], Hyper]:
    return lambda group: {key: group[key] for key in keys}


def copied(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else value


def count(state: State) -> int:
    return int(state["step"])

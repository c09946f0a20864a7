"""What rules with several stages share: a step of theirs parks the parameters while it looks elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..pytree import Tree, leaves_of
from .base import Hyper, InnerOptimizer, UnsupportedOptimizer, _for_parameter


def parks(state: dict[str, Any]) -> bool:
    """Whether a step is under way: parameters wait in ``state["parked"]``. A step is over when none does."""
    return any(leaf is not None for leaf in state["parked"])


def hyper_of_each(params: Tree, hyper: Hyper) -> list[Hyper]:
    """The hyperparameters of every leaf, in tree order."""
    count = len(leaves_of(params))
    if not any(isinstance(value, Mapping) for value in hyper.values()):
        return [hyper] * count
    names = list(params) if isinstance(params, dict) and len(params) == count else [None] * count
    return [_for_parameter(hyper, name) for name in names]


def require_one_stage(rule: InnerOptimizer, where: str, way: str) -> None:
    """Raises:
    UnsupportedOptimizer: for a rule with several stages, with the way out."""
    if rule.stages != (True,):
        raise UnsupportedOptimizer(f"{where} {rule.label}, whose step has {len(rule.stages)} stages; {way}")

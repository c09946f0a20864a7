"""What rules with several stages share: a step of theirs parks the parameters while it looks elsewhere."""

from __future__ import annotations

from typing import Any

from .base import InnerOptimizer, UnsupportedOptimizer


def parks(state: dict[str, Any]) -> bool:
    """Whether a step is under way: parameters wait in ``state["parked"]``. A step is over when none does."""
    return any(leaf is not None for leaf in state["parked"])


def require_one_stage(rule: InnerOptimizer, where: str, way: str) -> None:
    """Raises:
    UnsupportedOptimizer: for a rule with several stages, with the way out."""
    if rule.stages != (True,):
        raise UnsupportedOptimizer(f"{where} {rule.label}, whose step has {len(rule.stages)} stages; {way}")

"""An estimator from its name, its options and what carries it out."""

from __future__ import annotations

import re
from typing import Any

from ..higher_backend import HIGHER_ESTIMATORS
from .base import Estimator, EstimatorError, estimators

BACKENDS = ("func", "higher")


def get_estimator(name: str | Estimator, backend: str = "func", **options: Any) -> Estimator:
    """The estimator registered under ``name``, carried out by ``backend``.

    Raises:
        UnknownName: no such estimator. EstimatorError: the backend does not carry it out, or an unknown option.
    """
    if isinstance(name, Estimator):
        if backend != "func" or options:
            raise EstimatorError("an estimator that is already made takes no backend or options; give its name instead")
        return name
    if not isinstance(name, str):
        raise EstimatorError(f"an estimator is a name, such as 'exact', or an Estimator, not {name!r}")
    name, given = _called(name)
    cls = estimators.get(name)
    if backend not in BACKENDS:
        raise EstimatorError(f"unknown backend '{backend}'; choose one of: {', '.join(BACKENDS)}")
    if backend == "higher":
        if name not in HIGHER_ESTIMATORS:
            raise EstimatorError(f"backend 'higher' carries out {', '.join(HIGHER_ESTIMATORS)}, not '{name}'")
        cls = HIGHER_ESTIMATORS[name]
    try:
        return cls(*given, **options)
    except TypeError:
        shown = [*map(str, given), *sorted(options)]
        raise EstimatorError(f"estimator '{name}' does not take the options {shown}") from None


def _called(text: str) -> tuple[str, list[float]]:
    """``"truncated(3)"`` as a name and its first options."""
    match = re.fullmatch(r"(\w+)\((.*)\)", text.strip())
    if match is None:
        return text, []
    try:
        return match[1], [
            int(a) if re.fullmatch(r"-?\d+", a.strip()) else float(a) for a in match[2].split(",") if a.strip()
        ]
    except ValueError:
        raise EstimatorError(f"options in '{text}' must be numbers, e.g. truncated(3)") from None

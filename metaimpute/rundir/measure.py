"""The number a run is known by: one rule, written into ``result.json`` as ``measure`` and read from there by every other place.

It is ``test_last``, the error on the test rows at the last evaluation: that of the very network that the run keeps, and that
``predict`` and ``load`` serve. The median of the last evaluations, as papers on semi-supervised learning print it, stands beside
it; in a short training that median reaches back to a network that had hardly begun. A study may name another measure, which
then goes for its whole folder.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal, TypeAlias, get_args

Measure: TypeAlias = Literal["test_last", "test_median", "validation_last"]
MEASURE: Measure = "test_last"
MEASURES: tuple[Measure, ...] = get_args(Measure)
UNRECORDED = (
    "recorded before runs named the measure they are compared by; it is taken as test_last, the last evaluation"
)
_SAID = {
    "test_last": "test {}",
    "test_median": "median test {} of the last evaluations",
    "validation_last": "validation {}",
}
NORMAL = 1.959964  # quantile of the standard normal distribution at 0.975
PERCENT = "error %"  # the metric of classes
FEW = 50  # test rows below which their number is said beside the share


def measure_of(result: Mapping[str, Any]) -> Measure:
    """What a result says it is compared by; of older ones, that do not, ``test_last``."""
    found = result.get("measure")
    return found if found in MEASURES else MEASURE


def value_of(result: Mapping[str, Any], measure: Measure | None = None) -> float | None:
    """The run's number; None where it has no such rows.

    Args:
        measure: instead of the run's own.
    """
    return result.get(measure or measure_of(result))


def said(measure: Measure, metric: str) -> str:
    """A measure as tables call it, e.g. ``test error %``."""
    return _SAID[measure].format(metric)


def wilson(wrong: float, count: int) -> tuple[float, float]:
    """95% interval, in percent, of a share of which ``wrong`` among ``count`` independent rows was seen (Wilson, 1927).

    >>> wilson(0, 6)[1] < 39.1
    True
    """
    share, square = wrong / count, NORMAL**2
    centre = (share + square / (2 * count)) / (1 + square / count)
    half = NORMAL * math.sqrt(share * (1 - share) / count + square / (4 * count**2)) / (1 + square / count)
    low, high = max(0.0, centre - half), min(1.0, centre + half)
    return 100 * (low if wrong else 0.0), 100 * (high if wrong < count else 1.0)


def interval_of(result: Mapping[str, Any]) -> tuple[float, float] | None:
    """95% interval of the test error at the last evaluation, over other test rows; None where nothing tells it."""
    kept, error, rows = result.get("test_interval"), result.get("test_last"), result.get("test_examples")
    if kept:
        return kept[0], kept[1]
    if error is None or not rows or result.get("metric") != PERCENT:
        return None
    return wilson(round(error * rows / 100), rows)

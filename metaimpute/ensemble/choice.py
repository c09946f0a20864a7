"""Members fitted, measured on folds of the labelled rows, and combined; what is to be expected of their labels."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import numpy as np

from .combination import Combination, best_alone, combine_classes, combine_values
from .folds import folds
from .intervals import of_rms, of_share
from .members import Member, Rows, members

FOLDS = 5
FEW, REPEATS = 100, 2  # labelled rows up to which folds are repeated


@dataclass(frozen=True)
class Scored:
    """A member, or the combination, on rows held out.

    Attributes:
        name: of it. error: share of wrong classes in [0, 1], or root of the mean squared error. low, high: its 90% interval.
        weight: in the combination, in [0, 1]; 1 for that itself. seconds: for fitting it, folds and all.
    """

    name: str
    error: float
    low: float
    high: float
    weight: float
    seconds: float

    def times(self, unit: float) -> Scored:
        """The error of values in another unit."""
        return replace(self, error=self.error * unit, low=self.low * unit, high=self.high * unit)


@dataclass(frozen=True)
class Ensemble:
    """Members fitted to every labelled row, and how they are combined.

    Attributes:
        fitted: members with a weight, by name. combination: of them. classes: how many; 0 for values. scores: of every
            candidate. expected: of the combination. held_out: its predictions of the labelled rows, ``[n, classes]`` or ``[n]``;
            NaN for a row that was never held out.
    """

    fitted: Mapping[str, Member]
    combination: Combination
    classes: int
    scores: tuple[Scored, ...]
    expected: Scored
    held_out: np.ndarray

    def predict(self, rows: np.ndarray) -> np.ndarray:
        """Probabilities ``[n, classes]`` or values ``[n]`` of standardised rows ``[n, features]``."""
        return self.combination({name: member.predict(rows) for name, member in self.fitted.items()})


def usable(classes: int, labelled: int) -> list[str]:
    """Registered members for classes or values, and for so many labelled rows."""
    found = []
    for name in members:
        kind = members.get(name)
        if (kind.for_classes if classes else kind.for_values) and labelled <= kind.most:
            found.append(name)
    return found


def choose(
    rows: Rows,
    names: Sequence[str] | None = None,
    combine: Literal["mean", "best"] = "mean",
    report: Callable[[str, int, int], None] = lambda name, done, of: None,
    extra: Mapping[str, Callable[[], Any]] | None = None,
) -> Ensemble:
    """Fits every member on folds of the labelled rows and on all of them, and combines them.

    Args:
        names: of registered members; None takes all that are for this kind of target and this many rows. combine: the weighted
            mean of all, or the best one alone. report: told of each member's folds as they are done.
        extra: members of the caller's own, by name, as a function that makes one.
    """
    makers: dict[str, Callable[[], Any]] = {
        name: members.get(name) for name in (usable(rows.classes, len(rows.labelled)) if names is None else names)
    }
    makers |= dict(extra or {})
    parts = list(folds(rows.labels, FOLDS, REPEATS if len(rows.labels) <= FEW else 1, rows.seed, rows.classes > 0))
    held_out, fitted, seconds = {}, {}, {}
    for name, make in makers.items():
        started = time.perf_counter()
        some = parts[:FOLDS] if name in (extra or {}) else parts  # what takes long is held out once
        held_out[name] = _held_out(make, rows, some, partial(report, name))
        fitted[name] = make()
        fitted[name].fit(rows)
        report(name, len(some) + 1, len(some) + 1)
        seconds[name] = time.perf_counter() - started
    first = next(iter(held_out.values()))
    seen = np.isfinite(first if first.ndim == 1 else first[:, 0])
    labels, known = rows.labels[seen], {name: found[seen] for name, found in held_out.items()}
    if not len(labels):  # a single row of every class: nothing can be held out
        even = np.full(len(makers), 1 / len(makers))
        combination = Combination(tuple(makers), even, np.ones(len(makers)))
    elif combine == "best":
        combination = best_alone(known, labels, rows.classes)
    elif rows.classes:
        combination = combine_classes(known, labels, {name: fitted[name].prior for name in known})
    else:
        combination = combine_values(known, labels)
    weights = dict(zip(combination.names, combination.weights.tolist(), strict=True))
    whole = np.full_like(first, np.nan)
    if len(labels):
        whole[seen] = combination(known)
    scores = [
        _scored(name, known[name], labels, rows.classes, weights.get(name, 0.0), seconds[name]) for name in makers
    ]
    expected = _scored("combined", whole[seen], labels, rows.classes, 1.0, sum(seconds.values()))
    kept = {name: fitted[name] for name in combination.names}
    return Ensemble(kept, combination, rows.classes, tuple(scores), expected, whole)


def _held_out(
    make: Callable[[], Any], rows: Rows, parts: Sequence[Any], report: Callable[[int, int], None]
) -> np.ndarray:
    """Mean prediction of each labelled row by members that were not fitted to it; NaN for one that was never held out."""
    shape = (len(rows.labels), rows.classes) if rows.classes else (len(rows.labels),)
    total, count = np.zeros(shape), np.zeros(len(rows.labels))
    for done, (trained, held) in enumerate(parts, 1):
        member = make()
        beside = np.concatenate([rows.unlabelled, rows.labelled[held]])
        member.fit(Rows(rows.labelled[trained], rows.labels[trained], beside, rows.classes, rows.seed + done))
        total[held] += member.predict(rows.labelled[held])
        count[held] += 1
        report(done, len(parts) + 1)
    count[count == 0] = np.nan
    return total / (count[:, None] if rows.classes else count)


def _scored(name: str, found: np.ndarray, labels: np.ndarray, classes: int, weight: float, seconds: float) -> Scored:
    if not len(labels):
        return Scored(name, float("nan"), 0.0, 1.0 if classes else float("inf"), weight, seconds)
    if classes:
        wrong = float((found.argmax(1) != labels).sum())
        return Scored(name, wrong / len(labels), *of_share(wrong, len(labels)), weight, seconds)
    errors = found - labels
    return Scored(name, float(np.sqrt((errors**2).mean())), *of_rms(errors), weight, seconds)

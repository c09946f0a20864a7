"""Candidates fitted, measured on folds of the labelled rows, and combined; what is to be expected of their labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from ..progress import phase
from .combination import Combination, best_alone, combine_classes, combine_values, picking_bias
from .conformal import Widths
from .folds import folds
from .intervals import of_rms, of_share
from .measuring import Candidate, Examples, Measure, Report, Tournament, Unfit, here
from .members import Fitted, members

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
        fitted: members with a weight, by name. forms: of the rows that each takes. combination: of them.
        classes: how many; 0 for values. scores: of every candidate. expected: of the combination.
        held_out: its predictions of the labelled rows, ``[n, classes]`` or ``[n]``; NaN for a row that was never held out.
        labels: of those rows, ``[n]``. widths: of the intervals of values, where any row was held out.
        left_out: candidates that took no part, and why.
    """

    fitted: Mapping[str, Fitted]
    forms: Mapping[str, str]
    combination: Combination
    classes: int
    scores: tuple[Scored, ...]
    expected: Scored
    held_out: np.ndarray
    labels: np.ndarray
    widths: Widths | None = None
    left_out: Mapping[str, str] = field(default_factory=dict)

    def predict(self, rows: Mapping[str, Any]) -> np.ndarray:
        """Probabilities ``[n, classes]`` or values ``[n]`` of rows ``[n, features]``, given in every form that is asked for."""
        return self.combination(self.parts(rows))

    def parts(self, rows: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """The same of each member that is fitted to rows."""
        return {name: one.predict(rows[self.forms[name]]) for name, one in self.fitted.items()}

    def half_widths(self, parts: Mapping[str, np.ndarray]) -> np.ndarray | None:
        """Of 90% intervals of values, ``[n]``, from those of every member; None where no row was held out, and of classes."""
        return None if self.widths is None else self.widths(parts, self.combination)


def usable(classes: int, labelled: int, sparse: bool = False) -> list[str]:
    """Registered members for classes or values, for so many labelled rows and for dense or sparse ones."""
    found = []
    for name in members:
        kind = members.get(name)
        fits = kind.for_classes if classes else kind.for_values
        if fits and labelled <= kind.most and (kind.takes_sparse or not sparse):
            found.append(name)
    return found


def candidates_on(form: str, names: Sequence[str], suffix: str = "") -> list[Candidate]:
    """Registered members on one form of the rows."""
    kinds = {name: members.get(name) for name in names}
    return [Candidate(name + suffix, form, kind, kind.prior, kind.once, name) for name, kind in kinds.items()]


def choose(
    examples: Examples,
    candidates: Sequence[Candidate],
    combine: Literal["mean", "best"] = "mean",
    report: Report = lambda name, done, of: None,
    folds_of: int | None = None,
    budget: float = float("inf"),
    measure: Measure = here,
) -> Ensemble:
    """Fits every candidate on folds of the labelled rows and on all of them, and combines them.

    Args:
        combine: the weighted mean of all, or the best one alone. report: told of each candidate's folds as they are done.
        folds_of: how many; by default five, twice where labels are few. budget: seconds after which no candidate is begun, and
            one under way is left out after the fold it is at; the first is measured whatever it takes. measure: where candidates
            are measured; by default one after the other, in this process.

    Raises:
        Unfit: when no candidate could be fitted.
    """
    labels, classes = examples.labels, examples.classes
    count, repeats = folds_of or FOLDS, REPEATS if len(labels) <= FEW else 1
    parts = list(folds(labels, count, repeats, examples.seed, classes > 0, examples.groups))
    of_each = {one.name: parts[: -(-len(parts) // repeats)] if one.once else parts for one in candidates}
    with phase("choosing systems", sum(len(some) + 1 for some in of_each.values())) as reached:
        far = dict.fromkeys(of_each, 0)

        def told(name: str, done: int, of: int) -> None:
            far[name] = done
            reached.to(sum(far.values()), note=name)
            report(name, done, of)

        found = measure(candidates, Tournament(examples, of_each, budget), told)
    left_out = found.left_out
    known_all = {one.name: found.measured[one.name] for one in candidates if one.name in found.measured}
    if not known_all:
        raise Unfit("; ".join(f"{name}: {reason}" for name, reason in left_out.items()))
    held_out = {name: one.held_out for name, one in known_all.items()}
    fitted = {name: one.member for name, one in known_all.items()}
    seconds = {name: one.seconds for name, one in known_all.items()}
    candidates = [one for one in candidates if one.name in held_out]
    first = next(iter(held_out.values()))
    seen = np.isfinite(first if first.ndim == 1 else first[:, 0])
    truth, known = labels[seen], {name: found[seen] for name, found in held_out.items()}
    if not len(truth):  # a single row of every class: nothing can be held out
        combination = Combination(tuple(held_out), np.full(len(held_out), 1 / len(held_out)), np.ones(len(held_out)))
    elif combine == "best":
        combination = best_alone(known, truth, classes)
    elif classes:
        combination = combine_classes(known, truth, {one.name: one.prior for one in candidates})
    else:
        combination = combine_values(known, truth)
    weights = dict(zip(combination.names, combination.weights.tolist(), strict=True))
    whole = np.full_like(first, np.nan)
    if len(truth):
        whole[seen] = combination(known)
    counted = examples.counted(seen)
    never, judged, answers = int((~seen & counted).sum()), counted[seen], labels[seen & counted]
    scores = [
        _scored(name, known[name][judged], answers, classes, weights.get(name, 0.0), seconds[name], never)
        for name in held_out
    ]
    bias = picking_bias(known, truth, classes, examples.seed) if combine == "best" and len(truth) else 0.0
    expected = _scored("combined", whole[seen & counted], answers, classes, 1.0, sum(seconds.values()), never, bias)
    kept = {name: fitted[name] for name in combination.names}
    forms = {one.name: one.form for one in candidates if one.name in kept}
    widths = Widths.fit(known, combination, truth) if len(truth) and not classes else None
    return Ensemble(kept, forms, combination, classes, tuple(scores), expected, whole, labels, widths, left_out)


def _scored(
    name: str,
    found: np.ndarray,
    labels: np.ndarray,
    classes: int,
    weight: float,
    seconds: float,
    never: int,
    bias: float = 0.0,
) -> Scored:
    """``never``: rows that could not be held out, as the only ones of their class; nothing would have found them.
    ``bias``: what the error, or its square, lacks for having been picked as the least."""
    if not len(labels):
        return Scored(name, float("nan"), 0.0, 1.0 if classes else float("inf"), weight, seconds)
    if classes:
        count = len(labels) + never
        wrong = min(float((found.argmax(1) != labels).sum()) + never + bias * len(labels), float(count))
        return Scored(name, wrong / count, *of_share(wrong, count), weight, seconds)
    errors = found - labels
    square = float((errors**2).mean())
    errors = errors * np.sqrt((square + bias) / square) if bias and square else errors
    return Scored(name, float(np.sqrt((errors**2).mean())), *of_rms(errors), weight, seconds)

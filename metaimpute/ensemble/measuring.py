"""Candidates fitted on folds of the labelled rows and on all of them, for :func:`~.choice.choose` to combine."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy import sparse

from ..errors import UserError
from .members import Fitted, Rows

COUNTED = 10  # rows at least that an expected error is measured on
Report = Callable[[str, int, int], None]
Fold = tuple[np.ndarray, np.ndarray]  # rows that are trained on, and those held out


@dataclass(frozen=True)
class Examples:
    """Labelled and unlabelled examples, as rows in one or several forms.

    Attributes:
        labelled, unlabelled: by the name of the form, ``[n, features]`` and ``[m, features]``, dense or sparse.
        labels: class numbers or values, ``[n]``. classes: how many there are; 0 for values. seed: of whatever is random.
        chosen: ``[n]``, true for labelled rows that were picked, as doubtful ones: errors are measured on the others where
            there are enough. None for none.
    """

    labelled: Mapping[str, Any]
    unlabelled: Mapping[str, Any]
    labels: np.ndarray
    classes: int
    seed: int
    chosen: np.ndarray | None = None

    def counted(self, seen: np.ndarray) -> np.ndarray:
        """The rows, of those that were held out or not, ``[n]``, on which errors are measured, ``[n]``."""
        if self.chosen is None or (seen & ~self.chosen).sum() < COUNTED:
            return np.ones(len(seen), dtype=bool)
        return ~self.chosen

    @property
    def groups(self) -> np.ndarray:
        """Numbers ``[n]``, equal for labelled examples whose rows are the same: one tells the label of the other."""
        form = next(iter(self.labelled.values()))
        rows = form.toarray() if sparse.issparse(form) else form
        return np.asarray(np.unique(rows, axis=0, return_inverse=True)[1]).reshape(-1)

    def whole(self, form: str) -> Rows:
        """All labelled rows of a form, and the unlabelled ones beside them."""
        return Rows(self.labelled[form], self.labels, self.unlabelled[form], self.classes, self.seed)

    def part(self, form: str, trained: np.ndarray, held: np.ndarray, number: int) -> Rows:
        """The rows of a fold: those held out are unlabelled ones there."""
        labelled = self.labelled[form]
        beside = stacked([self.unlabelled[form], labelled[held]])
        return Rows(labelled[trained], self.labels[trained], beside, self.classes, self.seed + number)


def stacked(parts: Sequence[Any]) -> Any:
    """Rows of several arrays, one below the other; sparse ones stay sparse."""
    return sparse.vstack(parts, format="csr") if sparse.issparse(parts[0]) else np.concatenate(parts)


@dataclass(frozen=True)
class Candidate:
    """A way to label rows.

    Attributes:
        name: of it. form: of the rows it takes. make: gives one that has not been fitted. prior: its weight before anything is
            seen, relative to the others'. once: whether each row is held out once, and not several times.
        member: under which name it is registered; empty for one that only this process can make.
    """

    name: str
    form: str
    make: Callable[[], Fitted]
    prior: float = 1.0
    once: bool = False
    member: str = ""


class Unfit(UserError, ValueError):
    """Raised by a member that cannot be fitted, with the reason; it is left out."""


@dataclass(frozen=True)
class Measured:
    """A candidate that could be fitted.

    Attributes:
        held_out: mean predictions of the labelled rows by members that were not fitted to them, ``[n, classes]`` or ``[n]``;
            NaN for a row that was never held out. member: fitted to all. seconds: for all of it.
    """

    held_out: np.ndarray
    member: Fitted
    seconds: float


@dataclass(frozen=True)
class Tournament:
    """What is to be measured.

    Attributes:
        examples: labelled and unlabelled ones. parts: by a candidate's name, its folds. budget: seconds after which no candidate
            is begun, and one under way is left out after the fold it is at; the first is measured whatever it takes.
    """

    examples: Examples
    parts: Mapping[str, Sequence[Fold]]
    budget: float = float("inf")


@dataclass
class Measurements:
    """What has been measured: candidates by name, and those that took no part, with why."""

    measured: dict[str, Measured] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)


Measure = Callable[[Sequence[Candidate], Tournament, Report], Measurements]


def here(candidates: Sequence[Candidate], tournament: Tournament, report: Report) -> Measurements:
    """Measures one candidate after the other, in this process.

    Args:
        report: told of each candidate's folds as they are done, ``(name, done, of)``, its last fit included.
    """
    found, begun = Measurements(), time.perf_counter()

    def spent() -> bool:
        return bool(found.measured) and time.perf_counter() - begun > tournament.budget

    def fold(name: str, done: int, of: int) -> None:
        report(name, done, of)
        if done < of - 1 and spent():
            raise Unfit(f"the budget was spent after {done} of {of - 1} folds")

    for one in candidates:
        if spent():
            found.left_out[one.name] = "the budget was spent"
            continue
        try:
            found.measured[one.name] = measure(one, tournament.examples, tournament.parts[one.name], fold)
        except (Unfit, np.linalg.LinAlgError) as error:
            found.left_out[one.name] = str(error)
    return found


def measure(one: Candidate, examples: Examples, parts: Sequence[Fold], report: Report) -> Measured:
    """A candidate on folds, and fitted to all labelled rows.

    Raises:
        Unfit, LinAlgError: when it cannot be fitted.
    """
    started = time.perf_counter()
    held_out = _held_out(one, examples, parts, report)
    member = one.make()
    member.fit(examples.whole(one.form))
    report(one.name, len(parts) + 1, len(parts) + 1)
    return Measured(held_out, member, time.perf_counter() - started)


def _held_out(one: Candidate, examples: Examples, parts: Sequence[Fold], report: Report) -> np.ndarray:
    labels, classes = examples.labels, examples.classes
    shape = (len(labels), classes) if classes else (len(labels),)
    total, count = np.zeros(shape), np.zeros(len(labels))
    for done, (trained, held) in enumerate(parts, 1):
        member = one.make()
        member.fit(examples.part(one.form, trained, held, done))
        total[held] += member.predict(examples.labelled[one.form][held])
        count[held] += 1
        report(one.name, done, len(parts) + 1)
    count[count == 0] = np.nan
    return total / (count[:, None] if classes else count)

"""What a check of gradients says: a line a term, and notes on what the losses do."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from ..errors import UserError

Verdict = Literal["right", "wrong", "zero", "noisy", "not finite", "cut", "refused", "inexact", "kink"]


class GradientCheckFailed(UserError, AssertionError):
    """A gradient that is not that of the bilevel map, with the report as message."""


@dataclass(frozen=True)
class Term:
    """One derivative by one estimator.

    Attributes:
        estimator: its name. name: ``coupling['weights']``, ``theta_0``, ``lr``.
        found, expected: directional derivative by the estimator, and by finite differences; None where there is none.
        verdict: ``right``; ``wrong``; ``zero``: the estimator's is zero and the other is not; ``noisy``: the map itself is not
        repeatable;
            ``cut``: the losses cut gradients, which finite differences do not see; ``kink``: differences of several sizes
            disagree, so they settle nothing; ``inexact``: by what the estimator leaves out; ``refused``: by the estimator, in
            ``reason``.
    """

    estimator: str
    name: str
    found: float | None
    expected: float | None
    verdict: Verdict
    reason: str = ""

    @property
    def error(self) -> float | None:
        """Relative to the larger of the two."""
        if self.found is None or self.expected is None:
            return None
        return abs(self.found - self.expected) / max(abs(self.found), abs(self.expected), 1e-300)

    def __str__(self) -> str:
        if self.verdict == "refused":
            return f"{self.estimator}: refused: {self.reason}"
        numbers = ""
        if self.found is not None and self.expected is not None:
            numbers = f" ({self.found:.9g}, finite differences {self.expected:.9g})"
        return f"{self.estimator}, {self.name}: {self.verdict}{numbers}{f'; {self.reason}' if self.reason else ''}"


@dataclass
class Report:
    """What a check has found. ``notes``: what the losses do that explains a difference, whether there is one or not."""

    terms: list[Term] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def failures(self) -> list[Term]:
        """Terms that are wrong, zero, noisy or not finite; all refusals too where nothing but refusals came."""
        wrong = [term for term in self.terms if term.verdict in ("wrong", "zero", "noisy", "not finite")]
        return wrong or ([] if any(term.verdict != "refused" for term in self.terms) else list(self.terms))

    @property
    def ok(self) -> bool:
        return not self.failures

    def __str__(self) -> str:
        return "\n".join([*map(str, self.terms), *(f"note: {note}" for note in self.notes)])

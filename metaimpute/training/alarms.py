"""What a run warns about, once each: a look-ahead gone astray, a zero hypergradient, a mask never open.

A look-ahead that raises the hold-out loss is no fault by itself, and no warning: where L2I helps most it doubles that loss
(``benchmarks/results/evidence.md``, column C_H). It has gone astray where it leaves a loss worse than the untrained network's.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import Any

WINDOW = 10
ASTRAY = 2.0  # hold-out loss after the look-ahead, in units of that at the run's first measured step
NEGLIGIBLE = 0.05  # hold-out loss; a smaller one may rise by a factor and still be small
ZEROS = 3
WEAK = 1e-3  # |hypergradient| / |base gradient|, applied; below it a step hardly differs from the control's
RESOLUTION = 1e-6  # mean change of labels, of the order of float32's at 1
EARLY = 200  # measured steps after which a long run is told
FEWEST = 5


@dataclass
class Alarms:
    """Watches the measured steps of a run.

    Args:
        inner_lr: of the look-ahead. estimator, dropped: named when the hypergradient is zero; None without an estimate.
        threshold: confidence from which the method lets an imputed label count; None where it asks for none.
        rate: how the look-ahead's learning rate goes on from inner_lr.
        rescaled: whether the hypergradient is scaled to the base gradient, whatever its own length.

    Attributes:
        looks: hold-out loss before and after the look-ahead, at the last ``WINDOW`` measured steps. start: before the first one.
    """

    inner_lr: float
    estimator: str | None
    dropped: str
    threshold: float | None = None
    looks: list[tuple[float, float]] = field(default_factory=list)
    start: float | None = None
    raised: bool = False
    zero: bool = False
    zeros_seen: int = 0
    masks_seen: int = 0
    opened: bool = False
    said: list[str] = field(default_factory=list)
    rescaled: bool = False
    rate: str = "fixed"
    weak: dict[str, Any] = field(default_factory=lambda: {"measured": 0, "under": 0, "labels": False, "said": False})

    def look(self, values: dict[str, float], last: bool) -> list[str]:
        """Warnings that a step's measurements give cause for. ``last``: no step follows."""
        found = []
        silent = (
            values.get("mask_rate") == 0 or values.get("lookahead_weight") == 0
        )  # no imputed label counts in this step, or not yet
        if self.estimator and values.get("hypergradient_norm") == 0 and not silent and not self.zero:
            self.zeros_seen += 1
            if self.zeros_seen == ZEROS or last:
                self.zero = True
                found.append(
                    f"warning: the hypergradient is exactly zero in {self.zeros_seen} measured steps, so this run equals the "
                    f"control zero_hypergradient (estimator '{self.estimator}', dropped: {self.dropped})"
                )
        if not silent:
            found += self._weak(values, last)
        if "holdout_after" in values and not self.raised:
            found += self._astray(values["holdout_before"], values["holdout_after"], last)
        if self.threshold is not None and "mask_rate" in values:
            self.masks_seen += 1
            self.opened = self.opened or values["mask_rate"] > 0
            if last and not self.opened:
                found.append(
                    f"warning: no imputed label was as sure as method.threshold ({self.threshold:g}) in any of the "
                    f"{self.masks_seen} measured steps, so unlabelled examples had no part in training; lower it, or train longer"
                )
        self.said = [*self.said, *found]
        return found

    def _astray(self, before: float, after: float, last: bool) -> list[str]:
        """A look-ahead that leaves a loss worse than the network began with: its derivative tells nothing of this one."""
        self.start = before if self.start is None else self.start
        self.looks = [*self.looks, (before, after)][-WINDOW:]
        befores, afters = (statistics.fmean(values) for values in zip(*self.looks, strict=True))
        if len(self.looks) < WINDOW and not last:
            return []
        if afters <= max(ASTRAY * max(self.start, NEGLIGIBLE), befores):
            return []
        self.raised = True
        remedy = f"lower problem.inner.lr (now {self.inner_lr:g})"
        if self.rate != "fixed":
            remedy = f"take a shorter one than problem.inner.rate has it ({self.rate})"
        return [
            f"warning: the look-ahead raises the hold-out loss from {befores:.3g} to {afters:.3g} (means of {len(self.looks)} "
            f"measured steps), and the run began with {self.start:.3g}; {remedy}"
        ]

    def _weak(self, values: dict[str, float], last: bool) -> list[str]:
        """A hypergradient too short, or labels moved too little, to make a difference in half of the measured steps."""
        if self.estimator and not self.rescaled and "hypergradient_norm" in values and values.get("base_gradient_norm"):
            self.weak["measured"] += 1
            moved = values.get("label_change")
            ratio = values["hypergradient_norm"] / values["base_gradient_norm"]
            self.weak["under"] += (ratio < WEAK) if moved is None else (moved < RESOLUTION)
            self.weak["labels"] = moved is not None
        measured, under = self.weak["measured"], self.weak["under"]
        due = measured >= FEWEST and (last or measured == EARLY)
        if not due or self.weak["said"] or self.zero or 2 * under <= measured:
            return []
        self.weak["said"] = True
        what = (
            f"the labels were moved by less than {RESOLUTION:g}, which rounding does as well,"
            if self.weak["labels"]
            else f"the hypergradient was less than {WEAK:.1%} as long as the base gradient"
        )
        return [
            f"warning: {what} in {under} of {measured} measured steps, so this run hardly differs from the control "
            "zero_hypergradient; see problem.form (released), problem.inner.lr and problem.scale"
        ]

    def state(self) -> dict[str, Any]:
        return {
            "looks": self.looks,
            "start": self.start,
            "warned": self.raised,
            "zero": self.zero,
            "zeros_seen": self.zeros_seen,
            "masks_seen": self.masks_seen,
            "opened": self.opened,
            "said": self.said,
            "weak": self.weak,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        self.looks = [(before, after) for before, after in state.get("looks", [])]
        self.start, self.raised = state.get("start"), state["warned"]
        self.zero, self.zeros_seen = state.get("zero", False), state.get("zeros_seen", 0)
        self.masks_seen, self.opened = (
            state.get("masks_seen", 0),
            state.get("opened", True),
        )  # unknown: no reason to warn
        self.said = state.get("said", [])
        self.weak = state.get("weak", self.weak)

"""How the look-ahead's learning rate goes on from the one a recipe names, so that nobody needs to search for it.

``fixed``: it stays. ``learned``: every outer step moves its logarithm against the sign of ``dC_H / d rate``, which the estimator
gives with the hypergradient (Baydin et al., "Online learning rate adaptation with hypergradient descent", ICLR 2018, with the
sign as in Rprop). ``line_search``: now and then that of a few with the smallest hold-out loss along the look-ahead's way (from
its start through its end, which for one step is where other rates lead). ``trust(x)``: the rate with which the look-ahead changes
predictions on hold-out examples by x, a root mean square over examples of the length of the change (of probabilities; of values
in standard deviations).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

FASTEST, STEEPEST = 2.0, 10.0  # by which a trust region's rate rises and falls in one step at most
TOO_FAR = 2.0  # times the wanted change: the look-ahead is taken again
FARTHEST = 1000.0
TRIES = 4
LEARNING = 0.1  # step of the logarithm of a learned rate
SEARCHED = (0.25, 0.5, 1.0, 2.0, 4.0)  # factors that a line search compares
EVERY = 10  # steps between line searches
SMALLEST, LARGEST = 1e-8, 1e8


@dataclass
class Look:
    """What an outer step has seen of its look-ahead.

    Attributes:
        change: ``() -> `` root mean square change of predictions on the hold-out batch. slope: ``dC_H / d rate``, or None.
        holdout: ``rate -> C_H`` as far along the look-ahead's way as another rate leads.
    """

    step: int
    change: Callable[[], Tensor]
    slope: Tensor | None
    holdout: Callable[[float], Tensor]


class Rate:
    """A learning rate that stays."""

    needs_slope = False

    def __init__(self, value: float) -> None:
        self.value = value

    @property
    def moves(self) -> bool:
        return type(self) is not Rate

    def follow(self, look: Look) -> bool:
        """Sets the rate to go on with; True where the look-ahead is to be taken again with it, since it went too far."""
        return False

    def _set(self, value: float) -> None:
        if math.isfinite(value):
            self.value = min(max(value, SMALLEST), LARGEST)


class Learned(Rate):
    """Moves against the sign of its own hypergradient."""

    needs_slope = True

    def follow(self, look: Look) -> bool:
        if look.slope is not None and math.isfinite(slope := float(look.slope)) and slope != 0:
            self._set(self.value * math.exp(-math.copysign(LEARNING, slope)))
        return False


class LineSearch(Rate):
    """The best of a few around it, every tenth step."""

    def follow(self, look: Look) -> bool:
        if look.step % EVERY == 0:
            losses = {factor: float(look.holdout(self.value * factor)) for factor in SEARCHED}
            known = {factor: loss for factor, loss in losses.items() if math.isfinite(loss)}
            if known:
                self._set(self.value * min(known, key=lambda factor: known[factor]))
        return False


class Trust(Rate):
    """Follows the rate at which predictions change by ``wanted``; a look-ahead that changes them by twice that is taken again.

    Where hardly any imputed label counts (a confidence mask) a look-ahead changes nothing at any rate, so the rate is not raised
    beyond ``FARTHEST`` times the one it began with.
    """

    def __init__(self, value: float, wanted: float) -> None:
        super().__init__(value)
        self.wanted, self.most = wanted, FARTHEST * value

    def follow(self, look: Look) -> bool:
        change = float(look.change())
        if not math.isfinite(change):
            self._set(self.value / STEEPEST)
        elif change > TOO_FAR * self.wanted:
            self._set(self.value * max(self.wanted / change, 1 / STEEPEST))
        else:
            if change > 0:
                self._set(min(self.value * min(self.wanted / change, FASTEST), self.most))
            return False
        return True


def parse_rate(text: str) -> Callable[[float], Rate]:
    """A rate from its text, to be given the value it begins with.

    Raises:
        ValueError: for any other text than ``fixed``, ``learned``, ``line_search`` and ``trust(x)`` with x > 0.
    """
    plain: dict[str, Callable[[float], Rate]] = {"fixed": Rate, "learned": Learned, "line_search": LineSearch}
    if text in plain:
        return plain[text]
    match = re.fullmatch(r"trust\(\s*([0-9.]+(?:e-?\d+)?)\s*\)", text)
    try:
        wanted = float(match[1]) if match else 0.0
    except ValueError:
        wanted = 0.0
    if not 0 < wanted < math.inf:
        raise ValueError("write fixed, learned, line_search or trust(x) with x > 0, e.g. trust(0.1)")
    return lambda value: Trust(value, wanted)


def change_of(before: Tensor, after: Tensor) -> Tensor:
    """Root mean square over rows of the length of the difference, a scalar."""
    return (after - before).flatten(1).square().sum(1).mean().sqrt()


def slope_of(grad_optimizer: dict[str, Any]) -> Tensor | None:
    """The hold-out loss's gradient in the learning rate, where the estimator gave one."""
    found = grad_optimizer.get("lr")
    return found if isinstance(found, torch.Tensor) and found.ndim == 0 else None

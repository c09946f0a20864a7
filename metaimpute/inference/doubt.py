"""Which labels are least sure, how many of the wrong ones lie among them, and how a probability is written.

The expected number of wrong labels among some rows is the sum of ``1 - confidence`` over them: it holds as far as the
confidences are calibrated.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..rundir.result import Estimated
from ..tasks.quoting import safe

BULK = 0.75  # of the expected errors, which the doubtful rows hold together
DIGITS = 6  # significant ones of a probability, or of what it lacks to 1
AT_ONCE = 200  # rows that a person is asked to look at
SHARE = 0.5  # of the rows expected to be of a class, below which it is imputed too seldom
FEWEST = 3  # rows expected to be of a class, from which it is missed
NEGLIGIBLE = 0.5  # expected errors, below which there is nothing to look for


@dataclass(frozen=True)
class Seldom:
    """A class, how many rows were labelled with it, and of how many rows it is expected to be the true one."""

    name: str
    count: int
    expected: int

    def said(self, columns: bool = True) -> str:
        """In one line; ``columns``: whether the labels stand beside columns of probabilities."""
        given = "no row is" if not self.count else "1 row is" if self.count == 1 else f"{self.count:,} rows are"
        return f"{given} labelled '{safe(self.name)}', and about {self.expected:,} are expected to be" + (
            f"; the most probable ones have the largest p({safe(self.name)})" if columns else ""
        )


def ranks(doubt: Tensor) -> list[int]:
    """Place of each row when the least sure comes first, from 1; equally sure rows in their order, ``[n]``."""
    order = doubt.double().argsort(descending=True, stable=True)
    found = torch.empty_like(order)
    found[order] = torch.arange(1, len(order) + 1, device=order.device)
    return found.tolist()


def doubtful(doubt: Tensor) -> list[bool]:
    """The fewest least sure rows that together hold three quarters of the expected errors, ``[n]``.

    Args:
        doubt: expected errors of each row: ``1 - confidence``, or the squared spread of a value.
    """
    order = doubt.double().argsort(descending=True, stable=True)
    total = doubt.double()[order].cumsum(0)
    found = torch.zeros(len(doubt), dtype=torch.bool, device=doubt.device)
    if len(doubt) and float(total[-1]) > 0:
        count = int((total < BULK * total[-1] * (1 - 1e-12)).sum()) + 1
        found[order[:count]] = True
    return found.tolist()


def to_check(doubt: Tensor, most: int = AT_ONCE) -> tuple[int, float]:
    """How many of the least sure rows a person should look at first, and the share of the expected errors among them."""
    count = min(sum(doubtful(doubt)), most)
    total = float(doubt.double().sum())
    share = float(doubt.double().sort(descending=True).values[:count].sum()) / total if total else 0.0
    return count, share


def advice(
    doubt: Tensor,
    where: str,
    classes: bool,
    ranked: bool = True,
    most: int = AT_ONCE,
    expected: Estimated | None = None,
) -> str:
    """What to do next, in one line.

    Args:
        doubt: as for :func:`doubtful`. where: the file of labels. classes: whether labels are classes, else values.
        ranked: whether the file has a column of ranks. most: rows that are asked for. expected: the error of several systems
            combined on labels held out, which says how far the confidences have been looked at.
    """
    count, share = to_check(doubt, most)
    if not count:
        return f"the rows are equally sure; {where} holds them"
    if classes and float(doubt.double().sum()) < NEGLIGIBLE:
        high = None if expected is None else expected["high"]
        several = 0 if high is None else math.floor(len(doubt) * high / 100)
        limit = f" by the confidences, and up to {several:,} by the expected error's interval" if several else ""
        return f"less than one wrong label is expected{limit}; the least sure rows are first by rank in {where}"
    if not classes and 2 * count > len(doubt):
        return f"the rows are about equally sure; the least sure ones are first by rank in {where}"
    rows = "the least sure row" if count == 1 else f"the {count:,} least sure rows"
    what = "of the wrong ones are" if classes else "of the squared error is"
    place = f"({where}{', column rank' if ranked else ''})"
    if expected is not None and expected["error"] is None:
        return f"check {rows} {place}: least sure by confidences that no label held out has confirmed"
    return f"check {rows}: about {share:.0%} {what} expected there {place}"


def confirmed(expected: Estimated | None) -> bool:
    """Whether labels held out say what confidences are worth."""
    return expected is not None and expected["error"] is not None


def seldom(probabilities: Tensor, names: Sequence[str]) -> list[Seldom]:
    """Classes that far fewer rows were labelled with than are expected to be of it, as happens to rare ones.

    A row of which a rare class is thought with 30% is labelled with another, and so are ten such rows, three of which are of it.

    Args:
        probabilities: ``[n, classes]``, as far as they are calibrated.
    """
    expected = probabilities.double().sum(0).tolist()
    counts = torch.bincount(probabilities.argmax(-1), minlength=len(names)).tolist()
    return [
        Seldom(name, count, round(wanted))
        for name, count, wanted in zip(names, counts, expected, strict=True)
        if wanted >= FEWEST and count < SHARE * wanted
    ]


def beyond_zero(values: Tensor, given: Sequence[float]) -> str:
    """That values lie on the other side of zero than every given one, in a line; empty where none does.

    Args:
        values: ``[n]``, in their own units.
    """
    if len(given) and min(given) > 0:
        count, side = int((values < 0).sum()), "below"
    elif len(given) and max(given) < 0:
        count, side = int((values > 0).sum()), "above"
    else:
        return ""
    if not count:
        return ""
    lie = "1 value lies" if count == 1 else f"{count:,} values lie"
    return (
        f"{lie} {side} zero, and no given one does; where the quantity cannot be so, and spans several sizes, its logarithm "
        "may be the better column to predict"
    )


def written(probability: float) -> float:
    """A probability as it is put in a file: short, and never a certainty that it is not."""
    smaller = min(probability, 1 - probability)
    if not 0 < smaller < 1:
        return float(probability)
    return round(probability, min(DIGITS - 1 - math.floor(math.log10(smaller)), 17))

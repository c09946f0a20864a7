"""What a system of the benchmark is told, and what it answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

SETS = 0.9  # probability that a set of classes is to hold the true one with


@dataclass(frozen=True)
class Asked:
    """What a system is told of a task, and nothing of the hidden labels.

    Attributes:
        form: ``table``, ``texts`` or ``images``. values: whether the target is a number. arrays: whether a user would have
            numbers in an array. seed: of everything random. folder: to write in.
        features: of all rows by the name of the features, ``[n, width]``.
    """

    name: str
    form: str
    values: bool
    arrays: bool
    seed: int
    folder: Path
    features: Callable[[str], np.ndarray]


@dataclass(frozen=True)
class Answer:
    """A system's predictions.

    Attributes:
        predictions: for all rows, names of classes or numbers. confidences: probabilities of those, where it has some.
        own_error: what it expects its own error to be, in percent or in units of the target, and a 90% interval.
        spread: of values, how far off 90 of 100 are said to be at most. sets: of classes, the names of which one is said to be
            true with a probability of ``SETS``.
    """

    predictions: np.ndarray
    confidences: np.ndarray | None = None
    own_error: tuple[float, float, float] | None = None
    spread: np.ndarray | None = None
    sets: list[set[str]] | None = None


System = Callable[[Asked, np.ndarray, np.ndarray, Any], Answer]

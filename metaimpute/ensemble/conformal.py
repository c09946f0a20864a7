"""How far a value may lie off, and which classes an example may be of, by what was seen on rows held out.

Split conformal prediction (Vovk et al., 2005; Lei et al., 2018), with predictions of the folds in the place of a calibration
set: members that were fitted to all rows err less than those of the folds, so that both are wide rather than narrow.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from .combination import Combination

LEVEL = 0.9
PRIOR_ROWS, PRIOR = 5, (0.6, 0.2, 0.2)  # of the error: the same everywhere, as members disagree, as the value grows
LEAST, MOST = 0.1, 10.0  # of the mean error, that a row's own is held between


def quantile(scores: np.ndarray, level: float = LEVEL) -> float:
    """The score that a new one is at most equal to with a probability of ``level`` at least; infinite where ``scores`` ``[n]``
    are too few to tell: fewer than ``level / (1 - level)``."""
    place = math.ceil(level * (len(scores) + 1) * (1 - 1e-12))
    return float(np.sort(scores)[place - 1]) if place <= len(scores) else math.inf


@dataclass(frozen=True)
class Widths:
    """Half widths of 90% intervals of values, wider where errors on rows held out say so.

    The error to expect of a row is ``base + disagreement * d + growth * (value - lowest)``, where ``d`` is the weighted standard
    deviation of the members' values; none of the three is negative. The interval is a multiple of it, found on the rows held out
    (a normalised residual score: Papadopoulos et al., 2011).

    Attributes:
        base, disagreement, growth: as there. lowest: of the values of rows held out. mean: of their absolute errors.
        factor: what the expected error is multiplied by; the largest seen where rows are too few for the level.
    """

    base: float
    disagreement: float
    growth: float
    lowest: float
    mean: float
    factor: float

    @classmethod
    def fit(cls, held_out: Mapping[str, np.ndarray], combination: Combination, labels: np.ndarray) -> Widths:
        """From values ``[n]`` of each member for rows that it was not fitted to, and their labels ``[n]``."""
        value, apart = _value_and_disagreement(held_out, combination)
        errors, lowest = np.abs(value - labels), float(value.min())
        mean = float(errors.mean())
        columns = np.stack([np.ones_like(value), apart, value - lowest], 1)
        from scipy.optimize import nnls

        unit = np.maximum(columns.mean(0), 1e-12)
        share = math.sqrt(PRIOR_ROWS)
        rows = np.concatenate([columns / unit, share * np.eye(3)])
        found, _ = nnls(rows, np.concatenate([errors, share * mean * np.array(PRIOR)]))
        base, disagreement, growth = (found / unit).tolist()
        one = cls(base, disagreement, growth, lowest, mean, 1.0)
        scores = errors / one._expected(value, apart) if mean > 0 else errors
        factor = quantile(scores)
        return replace(one, factor=factor if math.isfinite(factor) else float(scores.max()))

    def __call__(self, values: Mapping[str, np.ndarray], combination: Combination) -> np.ndarray:
        """Half widths ``[n]`` of values ``[n]`` of each member."""
        return self.factor * self._expected(*_value_and_disagreement(values, combination))

    def _expected(self, value: np.ndarray, apart: np.ndarray) -> np.ndarray:
        found = self.base + self.disagreement * apart + self.growth * (value - self.lowest)
        return np.asarray(np.clip(found, LEAST * self.mean, MOST * self.mean))


def _value_and_disagreement(
    values: Mapping[str, np.ndarray], combination: Combination
) -> tuple[np.ndarray, np.ndarray]:
    every = np.stack([values[name] for name in combination.names])
    mean = combination.weights @ every
    return mean, np.sqrt(np.maximum(combination.weights @ (every - mean) ** 2, 0.0))


def class_sets(probabilities: np.ndarray, held_out: np.ndarray, labels: np.ndarray, level: float = LEVEL) -> np.ndarray:
    """Which classes each example may be of: sets that hold the true one with a probability of ``level``.

    A class whose own labels are enough for the level (9 for 90%) is held to it by itself, the others together
    (label-conditional conformal prediction; Vovk, 2012). The most probable class is always there.

    Args:
        probabilities: ``[n, classes]``. held_out: of labelled rows, by models that were not fitted to them,
            ``[labelled, classes]``; NaN for one that could not be held out, which counts as given no chance. labels: of those
            rows, ``[labelled]``.

    Returns:
        Truth values, ``[n, classes]``.
    """
    own = np.nan_to_num(held_out[np.arange(len(labels)), labels], nan=0.0)
    together = quantile(1 - own, level)
    thresholds = np.full(probabilities.shape[1], together)
    for number in range(len(thresholds)):
        alone = quantile(1 - own[labels == number], level)
        if math.isfinite(alone):
            thresholds[number] = alone
    found = 1 - probabilities <= thresholds + 1e-12
    found[np.arange(len(found)), probabilities.argmax(1)] = True
    return np.asarray(found)

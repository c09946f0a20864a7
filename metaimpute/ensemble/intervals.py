"""Intervals for what was measured on few rows."""

from __future__ import annotations

import numpy as np
from scipy.stats import beta, norm


def of_share(wrong: float, count: int, level: float = 0.9) -> tuple[float, float]:
    """Jeffreys interval of a share in [0, 1] of which ``wrong`` among ``count`` was seen (Brown, Cai and DasGupta, 2001)."""
    tail = (1 - level) / 2
    low = float(beta.ppf(tail, wrong + 0.5, count - wrong + 0.5)) if wrong > 0 else 0.0
    high = float(beta.ppf(1 - tail, wrong + 0.5, count - wrong + 0.5)) if wrong < count else 1.0
    return low, high


def of_rms(errors: np.ndarray, level: float = 0.9, draws: int = 1000, seed: int = 0) -> tuple[float, float]:
    """Bootstrap interval of the root of the mean square of errors ``[n]``."""
    rng = np.random.default_rng(seed)
    squares = errors**2
    means = squares[rng.integers(len(errors), size=(draws, len(errors)))].mean(1)
    spread = float(np.log(np.maximum(means, 1e-300)).std()) * float(norm.ppf((1 + level) / 2))
    centre = float(squares.mean())
    return float(np.sqrt(centre * np.exp(-spread))), float(np.sqrt(centre * np.exp(spread)))

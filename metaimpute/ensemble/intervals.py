"""Intervals for what was measured on folds of few rows.

Folds share most of their rows, so that their errors go together and vary more than those of as many independent rows would:
half of them count, and values' errors spread one and a half times as far. Both were found on tasks that no result is reported on.
"""

from __future__ import annotations

import numpy as np

INDEPENDENT, SPREAD = 0.5, 1.5


def of_share(wrong: float, count: float, level: float = 0.9) -> tuple[float, float]:
    """Jeffreys interval of a share in [0, 1] of which ``wrong`` among ``count`` was seen on folds (Brown et al., 2001)."""
    from scipy.stats import beta  # takes a second to import, and most commands ask for no interval

    tail, share = (1 - level) / 2, wrong / count
    count, wrong = INDEPENDENT * count, INDEPENDENT * wrong
    low = float(beta.ppf(tail, wrong + 0.5, count - wrong + 0.5)) if share > 0 else 0.0
    high = float(beta.ppf(1 - tail, wrong + 0.5, count - wrong + 0.5)) if share < 1 else 1.0
    return low, high


def of_rms(errors: np.ndarray, level: float = 0.9, draws: int = 1000, seed: int = 0) -> tuple[float, float]:
    """Bootstrap interval of the root of the mean square of errors ``[n]``."""
    from scipy.stats import norm

    rng = np.random.default_rng(seed)
    squares = errors**2
    means = squares[rng.integers(len(errors), size=(draws, len(errors)))].mean(1)
    spread = float(np.log(np.maximum(means, 1e-300)).std()) * SPREAD * float(norm.ppf((1 + level) / 2))
    centre = float(squares.mean())
    return float(np.sqrt(centre * np.exp(-spread))), float(np.sqrt(centre * np.exp(spread)))

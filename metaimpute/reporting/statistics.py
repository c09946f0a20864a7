"""Paired statistics over seeds: each seed draws labels, weights and batches once for every system."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

DRAWS = 10_000
FEWEST = 5  # non-zero pairs; with four, no outcome of the signed-rank test has p below 0.12
EXACT = 50  # pairs, of which all signs' sums are counted
FROM_FIVE = "interval and p from five seeds on"


@dataclass(frozen=True)
class Paired:
    """What pairs of numbers say of two systems.

    Attributes:
        differences: second minus first, one per pair. mean: of them. low, high: 95% bootstrap interval of the mean,
            None for fewer than five pairs, of which it would be no more than the smallest and the largest. p: two-sided
            Wilcoxon signed-rank test, None where it cannot tell. lower: pairs in which the second is lower.
    """

    differences: tuple[float, ...]
    mean: float
    low: float | None
    high: float | None
    p: float | None
    lower: int

    @property
    def interval(self) -> str:
        """As tables have it: a dash where there is none."""
        return "-" if self.low is None or self.high is None else f"{self.low:+.2f} to {self.high:+.2f}"


def bootstrap_interval(values: Sequence[float] | np.ndarray, draws: int = DRAWS) -> tuple[float, float]:
    """95% percentile interval of the mean; the same values always give the same interval."""
    known = np.asarray(values, dtype=float)
    means = np.random.default_rng(0).choice(known, (draws, len(known))).mean(1)
    return float(np.quantile(means, 0.025)), float(np.quantile(means, 0.975))


def signed_rank(differences: Sequence[float] | np.ndarray) -> float | None:
    """Two-sided p of Wilcoxon's signed-rank test without the zero differences; None for fewer than five others.

    Exact up to 50 pairs, those of tied sizes too, which share their ranks' mean (scipy's is exact with ties up to 13 pairs, and
    slow); by the normal approximation beyond.
    """
    known = np.asarray(differences, dtype=float).round(9)  # 30.5 - 28.1 and 2.4 are of one size
    known = known[known != 0]
    if len(known) < FEWEST:
        return None
    from scipy import stats

    if len(known) > EXACT:
        return float(stats.wilcoxon(known).pvalue)
    ranks = (2 * stats.rankdata(np.abs(known))).astype(int)  # a mean of ranks may be a half
    chances = np.zeros(
        ranks.sum() + 1
    )  # of each sum of the ranks of positive differences, where every sign is as likely
    chances[0] = 1.0
    for rank in ranks:
        chances[rank:] = (chances[rank:] + chances[:-rank]) / 2
        chances[:rank] /= 2
    found = ranks[known > 0].sum()
    return min(1.0, 2 * float(min(chances[: found + 1].sum(), chances[found:].sum())))


def holm(values: Sequence[float]) -> list[float]:
    """p values of several tests, each corrected so that the chance of any false one among them all is bounded (Holm, 1979).

    In the order given: the smallest times their number, the next times one less, and so on, none below one before it.
    """
    order = np.argsort(values, kind="stable")
    scaled = np.asarray(values, dtype=float)[order] * np.arange(len(values), 0, -1)
    found = np.empty(len(values))
    found[order] = np.minimum(np.maximum.accumulate(scaled), 1.0)
    return [float(value) for value in found]


def paired(first: Mapping[int, float], second: Mapping[int, float]) -> Paired | None:
    """``second`` against ``first`` on the seeds they share, or None for fewer than two.

    Args:
        first, second: seed to measurement.
    """
    shared = sorted(first.keys() & second.keys())
    if len(shared) < 2:
        return None
    differences = np.array([second[seed] - first[seed] for seed in shared])
    low, high = bootstrap_interval(differences) if len(shared) >= FEWEST else (None, None)
    return Paired(
        tuple(map(float, differences)),
        float(differences.mean()),
        low,
        high,
        signed_rank(differences),
        int((differences < 0).sum()),
    )

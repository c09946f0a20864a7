"""Rows that are alike, and rows that are like no other: nearest neighbours, duplicates, outliers."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

COMPARED = 4000  # rows that are held against each other at most
NEAR = 0.05  # of the usual distance to the nearest row, below which two rows are nearly the same
FAR = 6.0  # spreads above the median distance to its neighbours, from which a row is an outlier; at most a tenth of them are
NEIGHBOURS = 5


@dataclass(frozen=True)
class Alike:
    """What comparing rows has found.

    Attributes:
        exact: groups of positions whose content is the same, the largest first. near: pairs that are nearly the same, the nearest
            first. outliers: positions, the farthest first. compared: how many rows were held against each other.
    """

    exact: list[list[int]]
    near: list[tuple[int, int]]
    outliers: list[int]
    compared: int


def nearest(rows: np.ndarray, among: np.ndarray, count: int) -> np.ndarray:
    """Positions ``[n, count]`` of the rows nearest to each, the nearest first."""
    from sklearn.neighbors import NearestNeighbors

    count = min(count, len(among))
    if not count or not len(rows):
        return np.zeros((len(rows), 0), dtype=int)
    found: np.ndarray = NearestNeighbors(n_neighbors=count, algorithm="brute").fit(among).kneighbors(rows)[1]
    return found


def alike(rows: np.ndarray, keys: Sequence[Hashable], seed: int = 0) -> Alike:
    """Duplicates and outliers.

    Args:
        rows: features ``[n, features]``. keys: equal where two rows hold the same. seed: of the sample that is
            compared where there are too many rows.
    """
    groups: dict[Hashable, list[int]] = {}
    for place, key in enumerate(keys):
        groups.setdefault(key, []).append(place)
    exact = sorted((group for group in groups.values() if len(group) > 1), key=lambda group: (-len(group), group[0]))
    first = np.array(sorted(group[0] for group in groups.values()), dtype=int)
    if len(first) > COMPARED:
        first = np.sort(np.random.default_rng(seed).choice(first, COMPARED, replace=False))
    if len(first) <= NEIGHBOURS:
        return Alike(exact, [], [], len(first))
    near, outliers = _compare(rows[first])
    return Alike(
        exact, [(int(first[a]), int(first[b])) for a, b in near], [int(first[a]) for a in outliers], len(first)
    )


def _compare(rows: np.ndarray) -> tuple[list[tuple[int, int]], list[int]]:
    from sklearn.neighbors import NearestNeighbors

    distances, neighbours = NearestNeighbors(n_neighbors=NEIGHBOURS, algorithm="brute").fit(rows).kneighbors()
    usual = float(np.median(distances[:, 0]))
    close = np.flatnonzero(distances[:, 0] <= NEAR * usual)
    pairs = {(min(a, b), max(a, b)): distances[a, 0] for a, b in ((int(a), int(neighbours[a, 0])) for a in close)}
    mean = np.log(np.maximum(distances.mean(1), 1e-12))  # a ratio of distances says the same whatever the scale
    middle = float(np.median(mean))
    spread = max(1.4826 * float(np.median(np.abs(mean - middle))), (float(np.quantile(mean, 0.9)) - middle) / 1.2816)
    far = np.flatnonzero(mean > middle + FAR * max(spread, 1e-9)) if spread > 0 else np.zeros(0, dtype=int)
    return sorted(pairs, key=lambda pair: pairs[pair]), sorted(far.tolist(), key=lambda place: -mean[place])

"""Folds of the labelled rows: each row is held out once in every repetition."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

Fold = tuple[np.ndarray, np.ndarray]


def folds(
    labels: np.ndarray, count: int, repeats: int, seed: int, classes: bool, groups: np.ndarray | None = None
) -> Iterator[Fold]:
    """Positions ``(trained on, held out)`` of stratified folds, ``count`` of them in each of ``repeats`` repetitions.

    Args:
        groups: numbers ``[n]``, equal for rows that are copies of one another: they are held out together.
        labels: ``[n]``. classes: whether they are class numbers; then the rows of each class are dealt out one after another, so
            that no fold has two more of a class than another one. A class of one row is never held out, as nothing could
            predict it; a single row makes no fold.
    """
    rng = np.random.default_rng(seed)
    if groups is not None and len(np.unique(groups)) < len(groups):
        first, member = np.unique(groups, return_index=True, return_inverse=True)[1:]
        for _, held in folds(labels[first], count, repeats, seed, classes):
            out = np.flatnonzero(np.isin(member, held))
            yield np.setdiff1d(np.arange(len(labels)), out), out
        return
    for _ in range(repeats):
        order = rng.permutation(len(labels))
        if classes:
            order = order[np.argsort(labels[order], kind="stable")]
            sizes = np.bincount(labels, minlength=int(labels.max()) + 1)
            order = order[sizes[labels[order]] > 1]
        place = np.arange(len(order)) % min(count, max(len(order), 1))
        place = (place + rng.integers(count)) % min(count, max(len(order), 1))
        for number in range(min(count, len(order))):
            held = np.sort(order[place == number])
            if 0 < len(held) < len(labels):
                yield np.setdiff1d(np.arange(len(labels)), held), held

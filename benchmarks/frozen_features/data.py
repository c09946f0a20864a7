"""What the heads of ``benchmarks/frozen_features`` learn on: frozen features in blocks, and several draws of labels as one stack.

Draws of one task differ in which rows have labels and share everything else, so tensors of all draws are stacked: R draws, P
inner problems of each (one for each fold, and a last one that trains on all labels and holds none out), L labelled rows
(padded), n unlabelled ones, d features, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from sklearn.utils.extmath import randomized_svd
from torch import Tensor

from metaimpute.ensemble.folds import folds

from ..own_data.draws import features_of
from ..own_data.features import COLUMNS, EFFICIENTNET, MINILM, MINILM4, TFIDF
from ..own_data.sets import Absent, DataSet

KERNEL, FURTHER = "random Fourier features", f"{EFFICIENTNET}, further directions"
BLOCKS = {"table": (COLUMNS, KERNEL), "texts": (MINILM, MINILM4, TFIDF), "images": (EFFICIENTNET, FURTHER)}
DIRECTIONS, FOURIER, SQUARE = 48, 512, 30.0  # columns kept of a block; waves; mean squared length of a block's row
FOLDS, UNLABELLED = 5, 400


@dataclass(frozen=True)
class Draws:
    """Several draws of labels of one task.

    Attributes:
        labelled: ``[R, L, d]``. targets: their classes, one-hot, ``[R, L, C]``. given: which rows are no padding, ``[R, L]``.
        trained: weights of the labelled rows in each inner problem, ``[R, L, P]``; of one problem they sum to 1.
        held: weights of the rows that a problem holds out, ``[R, L, P]``; of one draw they sum to 1.
        count: labelled rows that a problem trains on, ``[R, P]``.
        unlabelled: ``[R, n, d]``. truth: their classes, which nothing but the error is computed from, ``[R, n]``.
        block: the number of each feature's block, ``[d]``.
    """

    labelled: Tensor
    targets: Tensor
    given: Tensor
    trained: Tensor
    held: Tensor
    count: Tensor
    unlabelled: Tensor
    truth: Tensor
    block: Tensor


def prepared(features: np.ndarray, most: int = DIRECTIONS) -> np.ndarray:
    """Centred rows in the directions along which they vary most, ``[n, at most so many]``, of mean squared length SQUARE."""
    centred = features.astype(float) - features.mean(0)
    if centred.shape[1] > most:
        _, _, directions = randomized_svd(centred, most, n_iter=4, random_state=0)
        centred = centred @ directions.T
    return centred * np.sqrt(SQUARE / (centred**2).sum(1).mean())


def waves(columns: np.ndarray) -> np.ndarray:
    """Random Fourier features of a Gaussian kernel (Rahimi and Recht, 2007), its width the median distance, ``[n, FOURIER]``."""
    rng = np.random.default_rng(0)
    some = columns[rng.choice(len(columns), min(len(columns), 500), replace=False)].astype(float)
    squares = ((some[:, None] - some[None]) ** 2).sum(-1)
    width = np.sqrt(np.median(squares[squares > 0]) / 2)
    frequencies = rng.normal(size=(columns.shape[1], FOURIER)) / width
    return np.cos(columns @ frequencies + rng.uniform(0, 2 * np.pi, FOURIER))


def block_of(name: str, known: dict[str, np.ndarray]) -> np.ndarray:
    """One block of features of all rows. Pixels are none: on the design task they made every head worse."""
    if name == KERNEL:
        return prepared(waves(known[COLUMNS]))
    if name in (EFFICIENTNET, FURTHER):
        both = prepared(known[EFFICIENTNET], 2 * DIRECTIONS)
        return both[:, :DIRECTIONS] if name == EFFICIENTNET else both[:, DIRECTIONS:]
    return prepared(known[name])


def draws_of(data_set: DataSet, seeds: list[int]) -> Draws:
    """The draws of a task with these seeds, labels and rows as in ``benchmarks/own_data``; features from its cache.

    Raises:
        Absent: where the data is not here.
    """
    data = data_set.load()
    known, _, lacking = features_of(data_set, data)
    if lacking:
        raise Absent(lacking[0])
    parts = [block_of(name, known) for name in BLOCKS[data_set.form]]
    block = np.repeat(np.arange(len(parts)), [part.shape[1] for part in parts])
    labels = np.unique(data.truth.astype(str), return_inverse=True)[1]
    return stack_draws(np.concatenate(parts, 1), block, labels, [data_set.draw(data.truth, s) for s in seeds], seeds)


def stack_draws(
    features: np.ndarray, block: np.ndarray, labels: np.ndarray, drawn: list[np.ndarray], seeds: list[int]
) -> Draws:
    """The draws, with folds and at most UNLABELLED other rows of each.

    Args:
        features: ``[N, d]``. block: ``[d]``. labels: class numbers ``[N]``. drawn: positions of labelled rows, an array a draw.
    """
    classes, most = int(labels.max()) + 1, max(map(len, drawn))
    parts: list[dict[str, np.ndarray]] = []
    for places, seed in zip(drawn, seeds, strict=True):
        others = np.setdiff1d(np.arange(len(labels)), places)
        rng = np.random.default_rng(seed)
        others = np.sort(rng.choice(others, min(UNLABELLED, len(features) - most), replace=False))
        trained, held = np.zeros((most, FOLDS + 1)), np.zeros((most, FOLDS + 1))
        for number, (left, out) in enumerate(folds(labels[places], FOLDS, 1, seed, True)):
            trained[left, number], held[out, number] = 1.0, 1.0
        trained[: len(places), FOLDS] = 1.0
        row = np.zeros((most, features.shape[1]))
        target = np.zeros((most, classes))
        row[: len(places)], target[: len(places)] = features[places], np.eye(classes)[labels[places]]
        parts.append({
            "labelled": row, "targets": target, "given": np.arange(most) < len(places), "trained": trained / trained.sum(0),
            "held": held / held.sum(), "count": trained.sum(0), "unlabelled": features[others], "truth": labels[others],
        })  # fmt: skip
    stacked = {name: torch.from_numpy(np.stack([part[name] for part in parts])) for name in parts[0]}
    return Draws(block=torch.from_numpy(block), **stacked)

"""A predictor's answers for data in memory, row by row."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError
from ..inference import Predictions, Predictor
from ..tasks.files import held_in_memory
from .data import Data
from .files import STEM, in_users_words, write_data


@dataclass(frozen=True)
class Answers:
    """What is predicted of every row.

    Attributes:
        labels: ``[n]``, the user's own; of values numbers. None or NaN for a row that nothing could be read of.
        sure: the probability of each label, or half the width of each value's 90% interval, ``[n]``; NaN where nothing was read.
        probabilities: ``[n, classes]``, in the order of the run's classes; None for values.
    """

    labels: np.ndarray
    sure: np.ndarray
    probabilities: np.ndarray | None

    def without(self, rows: np.ndarray) -> Answers:
        """The same with no answer for some rows ``[n]``, of which nothing could be read."""
        labels = self.labels.astype(object)
        labels[rows] = None
        shares = None if self.probabilities is None else np.where(rows[:, None], np.nan, self.probabilities)
        return Answers(labels, np.where(rows, np.nan, self.sure), shares)


def answers_for(predictor: Predictor, data: Data, originals: Mapping[str, Any]) -> Answers:
    """What a predictor of such data says of every row.

    Raises:
        TaskError: naming a column that is not there, or what else of the data it cannot read.
    """
    with tempfile.TemporaryDirectory(prefix="metaimpute-") as scratch:
        path = write_data(data, None, Path(scratch))
        try:
            with held_in_memory(path):
                found = predictor.predict(path / "unlabelled" if data.kind == "images" else path)
        except UserError as error:
            error.args = (in_users_words(str(error), path, Path(scratch) / f"{STEM}.yaml", {}),)
            raise
    for line in predictor.task.read_warnings:
        warnings.warn(in_users_words(line, path, Path(scratch) / f"{STEM}.yaml", {}), stacklevel=2)
    answers = by_row(found, len(data), originals)
    blank = [not text.strip() for text in data.rows] if data.kind == "texts" else []
    return answers.without(np.array(blank, dtype=bool)) if any(blank) else answers


def by_row(found: Predictions, count: int, originals: Mapping[str, Any]) -> Answers:
    """Predictions at the places that their names tell, in ``count`` rows."""
    places = [int(Path(name).stem) for name in found.ids]
    sure = np.full(count, np.nan)
    if found.probabilities is None:
        assert found.values is not None
        values = np.full(count, np.nan)
        values[places] = found.values[:, 0].numpy()
        if found.spread is not None:
            sure[places] = found.spread[:, 0].numpy()
        return Answers(values, sure, None)
    labels = np.full(count, None, dtype=object)
    for place, name in zip(places, found.labels, strict=True):
        labels[place] = originals.get(name, name)
    shares = np.full((count, len(found.names)), np.nan)
    shares[places] = found.probabilities.double().numpy()
    assert found.confidence is not None
    sure[places] = found.confidence.numpy()
    return Answers(labels, sure, shares)

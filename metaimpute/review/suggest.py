"""Which rows to label next: those that are least sure, and unlike each other.

Zhdanov, "Diverse mini-batch active learning" (2019): of the rows with the smallest margins between their two most probable
classes ten times as many as are wanted are kept, and clustered by k-means with what each margin lacks to 1 as weight; the row
nearest to each centre is taken.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..inference import Predictions, imputed
from ..inference.doubt import written
from ..inference.predictions import write_rows
from ..tasks.contents import Contents, contents_of
from ..tasks.own_data import OwnData
from ..tasks.readings import is_number
from .features import features_of

KEPT = 10  # times as many as are wanted
COMPARED = 2000  # the least sure rows, of which features are taken at least
CONTENT = 60  # letters of what a row holds, in a terminal


@dataclass(frozen=True)
class Suggestion:
    """Rows to label next, the most wanted first.

    Attributes:
        found: what the run says of them. contents: what they hold, where that can be shown. kept: corrections that the
            run was made with, by the row's name; the file has them too.
    """

    found: Predictions
    contents: Contents | None
    kept: dict[str, str] = field(default_factory=dict)

    @property
    def header(self) -> list[str]:
        """Of the file: ``label`` is blank, to be filled in."""
        guessed = ["guess", "confidence", "runner_up"] if self.found.probabilities is not None else ["guess"]
        columns = [] if self.contents is None else self.contents.columns
        taken = {"id", "label", *guessed}
        return ["id", "label", *guessed, *(f"content_{name}" if name in taken else name for name in columns)]

    def rows(self) -> list[list[Any]]:
        found = self.found
        if found.probabilities is not None:
            assert found.confidence is not None
            second, sure = found.runners_up[0], map(written, found.confidence.tolist())
            rows: list[list[Any]] = [list(row) for row in zip(found.labels, sure, second, strict=True)]
        else:
            assert found.values is not None
            rows = [[" ".join(f"{value:.6g}" for value in row)] for row in found.values.tolist()]
        cells: list[list[str]] = [[] for _ in rows] if self.contents is None else self.contents.rows
        return [[name, None, *row, *held] for name, row, held in zip(found.ids, rows, cells, strict=True)]

    def brief(self) -> tuple[list[str], list[list[str]]]:
        """Header and rows as they are shown in a terminal."""
        count = 3 if self.found.probabilities is not None else 1
        told = self.contents is not None and self.contents.kind != "image"  # whose path is the row's id
        shown = ["content"] if told else []
        rows = []
        for name, _, *row in self.rows():
            held = [" · ".join(map(_short, row[count:]))[:CONTENT]] if shown else []
            rows.append(
                [name, *(f"{cell:.3f}" if isinstance(cell, float) else str(cell) for cell in row[:count]), *held]
            )
        return ["id", *self.header[2 : 2 + count], *shown], rows

    def write(self, path: Path) -> None:
        """Writes the rows as CSV or Parquet, with a blank column ``label``; filled in, ``--labels`` takes it, as it takes the
        run's earlier corrections, which stand behind them."""
        rows, blank = self.rows(), [None] * (len(self.header) - 2)
        for row in rows:
            row[1] = self.kept.get(row[0])
        others = [name for name in self.kept if name not in self.found.ids]
        write_rows(path, self.header, [*rows, *([name, self.kept[name], *blank] for name in others)])


def _short(word: str) -> str:
    """A number with few digits; a word as it is."""
    return f"{float(word):.4g}" if is_number(word) else word


def suggest(
    run: str | Path, count: int = 20, *, data: str | Path | None = None, device: str = "auto", seed: int = 0
) -> Suggestion:
    """Unlabelled rows of a finished run that a person should label next.

    Args:
        count: how many. data: the run's file or folder, where it has moved. seed: of k-means.

    Raises:
        NotExported, MissingData, TaskError: as :func:`metaimpute.inference.imputed` does.
    """
    made = imputed(run, device, data)
    unsure = unsureness(made.found)
    first = np.sort(np.argsort(-unsure, kind="stable")[: max(KEPT * count, COMPARED)])
    (features,) = features_of(made.task, [made.unlabelled.subset(torch.from_numpy(first))])
    chosen = [int(first[place]) for place in wanted(features, unsure[first], count, seed)]
    shown = contents_of(made.task, made.unlabelled.subset(torch.tensor(chosen)))
    return Suggestion(
        made.found.take(chosen), shown, made.task.corrected_labels if isinstance(made.task, OwnData) else {}
    )


def unsureness(found: Predictions) -> np.ndarray:
    """How much each row's label is worth knowing, in [0, 1]: what the margin between its two most probable classes lacks to 1,
    or its spread relative to the largest; equal where nothing is known of that."""
    if found.probabilities is not None:
        shares = np.sort(found.probabilities.double().numpy(), 1)
        return 1 - (shares[:, -1] - shares[:, -2] if shares.shape[1] > 1 else shares[:, -1])
    doubt = found.doubt
    if doubt is None or not float(doubt.max()) > 0:
        return np.ones(len(found))
    known: np.ndarray = (doubt / doubt.max()).sqrt().numpy()
    return known


def wanted(features: np.ndarray, unsure: np.ndarray, count: int, seed: int = 0) -> list[int]:
    """Positions of ``count`` rows to label, the least sure first.

    Args:
        features: ``[n, features]``. unsure: ``[n]`` in [0, 1].
    """
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    order = np.argsort(-unsure, kind="stable")[: KEPT * count]
    if len(order) <= count:
        return [int(place) for place in order]
    weights = np.maximum(unsure[order], 1e-6)
    rows = features[order]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # of rows that are the same
        centres = KMeans(count, n_init=3, random_state=seed).fit(rows, sample_weight=weights)
    distances = np.linalg.norm(rows - centres.cluster_centers_[centres.labels_], axis=1)
    chosen = []
    for cluster in range(count):
        inside = np.flatnonzero(centres.labels_ == cluster)
        if len(inside):
            chosen.append(int(inside[distances[inside].argmin()]))
    for place in range(len(order)):  # of rows that are the same k-means makes fewer clusters
        if len(chosen) >= count:
            break
        if place not in chosen:
            chosen.append(place)
    return [int(place) for place in order[sorted(chosen)]]

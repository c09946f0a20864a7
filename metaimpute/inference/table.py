"""The table of labels as a reviewer takes it: what was predicted, and if asked the rows' content and the labels given."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..batches.outputs import Classes, Output, Standardized
from ..rundir.layout import SYSTEMS
from ..rundir.stored import DamagedFile, read_json
from ..tasks.base import Pool
from ..tasks.contents import Contents
from ..tasks.own_data import OwnData
from .doubt import written
from .impute import Imputed
from .predictions import Predictions, write_rows


@dataclass(frozen=True)
class Given:
    """Rows with a label that a person gave.

    Attributes:
        ids, labels: of each; values are numbers as words. probabilities: ``[n, classes]`` from a model that was not trained on
            the row, NaN where there is none; None where values are labels.
    """

    ids: list[str]
    labels: list[str]
    probabilities: np.ndarray | None

    def __len__(self) -> int:
        return len(self.ids)


def given_of(made: Imputed, held_out: np.ndarray | None = None) -> Given:
    """The rows that a person labelled: those trained on, of validation, of the test, in this order.

    Args:
        held_out: probabilities ``[labelled rows, classes]`` of the rows trained on by models that were not trained on them, NaN
            for a row without; None: there are none. Rows of validation and test are not trained on, and have the network's.
    """
    output, names = made.task.output, made.predictor.label_names
    ids = [name for pool in made.given for name in made.task.row_names(pool)]
    labels = [label for pool in made.given for label in _given_words(made, pool, names)]
    if not isinstance(output, Classes):
        return Given(ids, labels, None)
    first, *others = made.given
    shape = (len(first), len(names))
    known = np.full(shape, np.nan) if held_out is None else np.asarray(held_out, dtype=float)
    if known.shape != shape:
        raise ValueError(f"held_out is {known.shape}, and there are {shape[0]} labelled rows of {shape[1]} classes")
    parts = [known]
    for pool in others:
        shares = made.predictor.label(pool, made.task.row_names(pool)).probabilities if len(pool) else None
        parts.append(np.zeros((0, shape[1])) if shares is None else shares.double().numpy())
    return Given(ids, labels, np.concatenate(parts))


def _given_words(made: Imputed, pool: Pool, names: list[str]) -> list[str]:
    given = made.task.given_values(pool) if isinstance(made.task, OwnData) else None
    return _words(pool, made.task.output, names) if given is None else given


def _words(pool: Pool, output: Output, names: list[str]) -> list[str]:
    if pool.targets is None:
        return []
    if isinstance(output, Classes):
        return [names[number] for number in pool.targets.tolist()]
    values = pool.targets if not isinstance(output, Standardized) else output.original(pool.targets)
    return [
        f"{row[0]:.6g}" if len(row) == 1 else " ".join(f"{v:.6g}" for v in row)
        for row in torch.as_tensor(values, device="cpu").tolist()
    ]


def held_out_of(run: Path, made: Imputed) -> np.ndarray | None:
    """Probabilities of the rows trained on by models that were not trained on them, ``[labelled, classes]``, as a run with
    ``choose`` keeps them; None where a run has none, and for values.

    Raises:
        DamagedFile: for a file that is not what it should be.
    """
    path, labelled, classes = run / SYSTEMS, len(made.data.labelled), len(made.predictor.label_names)
    if not path.is_file() or not isinstance(made.task.output, Classes):
        return None
    try:
        found = np.array(read_json(path)["held_out"], dtype=float)
    except (LookupError, TypeError, ValueError) as error:
        raise error if isinstance(error, DamagedFile) else DamagedFile(path, f"held_out: {error}") from None
    if found.shape != (labelled, classes):
        raise DamagedFile(
            path, f"held_out is of {found.shape}, and there are {labelled} labelled rows of {classes} classes"
        )
    return found


@dataclass(frozen=True)
class LabelTable:
    """Rows of a file of labels: those predicted, then those given.

    Attributes:
        contents: of all of them, in this order, or None.
    """

    found: Predictions
    contents: Contents | None = None
    given: Given | None = None

    @property
    def header(self) -> list[str]:
        more = [] if self.given is None else ["given"]
        return [*self.found.header, *more, *self.content_columns]

    @property
    def content_columns(self) -> list[str]:
        """Columns of content, those of a name that is taken with ``content_`` before it."""
        taken = {*self.found.header, "given"}
        columns = [] if self.contents is None else self.contents.columns
        return [f"content_{name}" if name in taken else name for name in columns]

    def rows(self) -> list[list[Any]]:
        rows = [[*row, *([] if self.given is None else [False])] for row in self.found.rows()]
        rows += [] if self.given is None else self._given_rows(self.given)
        if self.contents is None:
            return rows
        return [[*row, *cells] for row, cells in zip(rows, self.contents.rows, strict=False)]

    def _given_rows(self, given: Given) -> list[list[Any]]:
        """Labels as given, with what a model that was not trained on them says, where there is one."""
        rows = []
        for place, (name, label) in enumerate(zip(given.ids, given.labels, strict=True)):
            known: dict[str, Any] = {"id": name}
            if given.probabilities is None:
                columns = self.found.header[1:]
                known |= dict(zip(columns, map(float, label.split()), strict=False))
            else:
                known["label"] = label
                shares = given.probabilities[place]
                if np.isfinite(shares).all():
                    by_class = dict(zip(self.found.names, map(written, shares.tolist()), strict=True))
                    others = {other: share for other, share in by_class.items() if other != label}
                    second = max(others, key=lambda other: others[other]) if others else label
                    known |= {f"p({other})": share for other, share in by_class.items()}
                    known |= {
                        "confidence": by_class[label],
                        "runner_up": second,
                        "runner_up_confidence": by_class[second],
                    }
            rows.append([known.get(column) for column in self.found.header] + [True])
        return rows

    def records(self) -> list[dict[str, Any]]:
        return [dict(zip(self.header, row, strict=True)) for row in self.rows()]

    def write(self, path: Path) -> None:
        """Writes the table as :meth:`Predictions.write` does."""
        write_rows(path, self.header, self.rows())

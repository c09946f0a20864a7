"""Weights that an objective has learned for the labelled rows, in a file that names the rows."""

from __future__ import annotations

import csv
from pathlib import Path

from torch import Tensor

from ..batches.outputs import Classes, Standardized
from ..rundir.files import replacing
from ..rundir.layout import ROW_WEIGHTS
from ..tasks.base import Pool, Task
from .evaluation import class_names


def write_row_weights(folder: Path, weights: Tensor, pool: Pool, task: Task) -> Path:
    """Writes ``row_weights.csv``, the rows with the least weight first: ``id``, the given ``label``, ``weight``.

    Args:
        weights: ``[labelled]``. pool: the labelled rows, in the same order.
    """
    assert pool.targets is not None
    if isinstance(task.output, Classes):
        names = class_names(task.label_names, task.output.size)
        labels = [names[number] for number in pool.targets.tolist()]
    else:
        values = task.output.original(pool.targets) if isinstance(task.output, Standardized) else pool.targets
        labels = [" ".join(f"{float(v):.7g}" for v in row) for row in values.reshape(len(pool), -1)]
    ids, found = task.row_names(pool), weights.detach().double().cpu()
    path = folder / ROW_WEIGHTS
    with (
        replacing(path) as partial,
        partial.open("w", newline="", encoding="utf-8", errors="backslashreplace") as stream,
    ):
        order = found.argsort(stable=True).tolist()
        csv.writer(stream).writerows(
            [["id", "label", "weight"], *([ids[n], labels[n], float(found[n])] for n in order)]
        )
    return path

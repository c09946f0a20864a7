"""Single test rows of a finished run: the surest of the right and the wrong answers, the least sure ones, and values in pairs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..batches.outputs import Classes, Quantities
from ..rundir.tested import Sample, SampledRows
from ..tasks.base import Pool, Task
from ..tasks.contents import contents_of
from ..tasks.image_files import ImageFileTask
from ..tasks.thumbnails import thumbnail, thumbnail_of
from ..terminal import spelled
from .evaluation import class_names

EACH = 6  # rows of a kind
PAIRS = 500
LETTERS, CELL, CELLS = 400, 60, 12  # of a text and of a cell, and cells of a row, at most
SIDE = 96  # pixels of a picture


def sampled_rows(raw: Tensor, task: Task, pool: Pool) -> SampledRows | None:
    """What is worth looking at among a test pool's rows; None for an empty pool, and for points in pictures.

    Args:
        raw: outputs ``[n, outputs]`` for the pool's examples.
    """
    output = task.output
    if not len(pool) or pool.targets is None:
        return None
    if isinstance(output, Classes):
        return _of_classes(output.activate(raw.double()), task, pool)
    if isinstance(output, Quantities):
        return _of_values(output, raw, task, pool)
    return None


def _of_classes(shares: Tensor, task: Task, pool: Pool) -> SampledRows:
    assert pool.targets is not None
    names = [spelled(name) for name in class_names(task.label_names, shares.shape[1])]
    sure, said = shares.max(-1)
    right = said == pool.targets
    by_doubt = sure.argsort()
    places = {
        "wrong": _varied((~right).nonzero()[:, 0], -sure, pool.targets),
        "doubtful": by_doubt[:EACH].tolist(),
        "right": _varied(right.nonzero()[:, 0], -sure, pool.targets),
    }
    columns, cells, pictures = _contents(task, pool, [place for found in places.values() for place in found])
    rows = iter(zip(cells, pictures, strict=True))
    ids = [spelled(name) for name in task.row_names(pool)]
    samples = {
        kind: [
            Sample(
                ids[n], names[int(pool.targets[n])], names[int(said[n])], float(f"{float(sure[n]):.4g}"), *next(rows)
            )
            for n in found
        ]
        for kind, found in places.items()
    }
    return SampledRows(columns, samples)


def _of_values(output: Quantities, raw: Tensor, task: Task, pool: Pool) -> SampledRows:
    assert pool.targets is not None
    said, true = output.original(raw), output.original(pool.targets.view_as(raw))
    off = output.error(raw, pool.targets)
    order = off.argsort(descending=True).tolist()
    places = {"wrong": order[:EACH], "right": order[::-1][: min(EACH, max(len(order) - EACH, 0))]}
    columns, cells, pictures = _contents(task, pool, [place for found in places.values() for place in found])
    rows, ids = iter(zip(cells, pictures, strict=True)), [spelled(name) for name in task.row_names(pool)]
    samples = {
        kind: [Sample(ids[n], _words(true[n]), _words(said[n]), None, *next(rows)) for n in found]
        for kind, found in places.items()
    }
    shown = torch.linspace(0, len(pool) - 1, min(PAIRS, len(pool)), device="cpu").round().long()
    names = task.label_names or [f"value {n + 1}" for n in range(output.size)]
    pairs = [(_plain(true[shown, n]), _plain(said[shown, n])) for n in range(output.size)]
    return SampledRows(columns, samples, list(names), pairs)


def _varied(places: Tensor, rank: Tensor, truth: Tensor) -> list[int]:
    """The first few by ``rank``, one of each true class before another of the same."""
    seen: dict[int, int] = {}
    turns = list[tuple[int, int, int]]()
    for place in places[rank[places].argsort()].tolist():
        true = int(truth[place])
        turns.append((seen.get(true, 0), len(turns), place))
        seen[true] = seen.get(true, 0) + 1
    return [place for _, _, place in sorted(turns)[:EACH]]


def _contents(task: Task, pool: Pool, places: Sequence[int]) -> tuple[list[str], list[list[str]], list[str]]:
    """Columns, and cells and a picture of each of these rows, as far as there is something to be seen of them."""
    some = pool.subset(torch.tensor(list(places), dtype=torch.long, device="cpu"))
    inputs, blank = some.inputs, [""] * len(places)
    if isinstance(task, ImageFileTask):
        return [], [[] for _ in places], [thumbnail(path, SIDE) for path in inputs]
    contents = contents_of(task, some)
    if contents is None and isinstance(inputs, Tensor):
        if inputs.ndim == 4 and inputs.shape[1] in (1, 3):
            return [], [[] for _ in places], [thumbnail_of(one, SIDE) for one in inputs]
        if inputs.ndim == 2 and 0 < inputs.shape[1] <= CELLS:
            columns = [f"x{n + 1}" for n in range(inputs.shape[1])]
            return columns, [[f"{value:.4g}" for value in row] for row in inputs.tolist()], blank
    if contents is None:
        return [], [[] for _ in places], blank
    most = LETTERS if contents.kind == "text" else CELL
    plain = [[spelled(" ".join(one.split())) for one in row[:CELLS]] for row in contents.rows]
    rows = [[one if len(one) <= most else f"{one[:most]} …" for one in row] for row in plain]
    return contents.columns[:CELLS], rows, blank


def _words(values: Tensor) -> str:
    return " ".join(f"{value:.4g}" for value in values.tolist())


def _plain(values: Tensor) -> list[float]:
    return [float(f"{value:.6g}") for value in values.tolist()]

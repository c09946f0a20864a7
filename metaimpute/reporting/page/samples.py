"""Single test rows: where the network is wrong, what it doubts, what it gets right; and values, predicted against true."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from ...rundir.stored import DamagedFile
from ...rundir.tested import Sample, SampledRows
from ..runs import Run
from .blocks import Block, Figure, Grid, Group, Samples, Section, Shown, Words
from .svg import LARGE, SQUARE, Line, chart

NAMED = 4  # values of a row that are drawn
DOT = 2.6
CLASSES = {"wrong": "Wrong, and sure of it", "doubtful": "The least sure", "right": "Right, and sure of it"}
VALUES = {"wrong": "Farthest off", "right": "Nearest"}


def samples(group: Group) -> Section | None:
    """Rows of the best system's first seed that are wrong, doubtful and right."""
    run = group.best.runs[0]
    found, damage = _read(run)
    if found is None:
        return Section("samples", "Some test rows", [Words([damage])]) if damage else None
    titles = VALUES if found.pairs else CLASSES
    blocks: list[Block] = [
        Samples(title, [_shown(one, found.columns) for one in found.samples[kind]])
        for kind, title in titles.items()
        if found.samples.get(kind)
    ]
    whose = (
        f" by {group.best.full_name}, seed {run.result.seed}"
        if len(group.systems) > 1 or len(group.best.runs) > 1
        else ""
    )
    intro = f"Before each arrow the truth, after it what was said{whose}."
    return Section("samples", "Some test rows", blocks, intro) if blocks else None


def values(group: Group) -> Section | None:
    """Predicted values against true ones, and what is left between them."""
    run = group.best.runs[0]
    found, _ = _read(run)
    if found is None or not found.pairs:
        return None
    figures = []
    for name, (true, said) in list(zip(found.names, found.pairs, strict=False))[:NAMED]:
        if len(true) > 1:
            figures += _of(name, true, said)
    whose = (
        f" by {group.best.full_name}, seed {run.result.seed}"
        if len(group.systems) > 1 or len(group.best.runs) > 1
        else ""
    )
    intro = f"Test rows{whose}. On the dotted line a prediction is right; residuals should lie evenly around zero."
    return Section("values", "Predicted against true", [Grid(figures, kind="large")], intro) if figures else None


def _of(name: str, true: Sequence[float], said: Sequence[float]) -> list[Figure]:
    ends = (min(*true, *said), max(*true, *said))
    air = 0.04 * (ends[1] - ends[0]) or 1.0
    span = (ends[0] - air, ends[1] + air)
    along = Line(list(zip(true, said, strict=True)), 0, marks=[DOT] * len(true), loose=True)
    off = [(b, a - b) for a, b in zip(said, true, strict=True)]
    left = Line(off, 1, marks=[DOT] * len(true), loose=True)
    largest = max(abs(value) for _, value in off) or 1.0
    rms = statistics.fmean(value**2 for _, value in off) ** 0.5
    mean = sum(value for _, value in off) / len(off)
    first = Figure(
        f"{name}: predicted, by true value",
        chart(f"{name}: predicted against true", [along], x=span, y=span, x_label="true", diagonal=True, size=SQUARE),
    )
    second = Figure(
        f"{name}: predicted minus true, by true value",
        chart(f"{name}: residuals", [left], x=span, y=(-1.05 * largest, 1.05 * largest), x_label="true", size=LARGE),
        f"Root mean square {rms:.4g}, mean {mean:+.3g}, largest {largest:.3g}. To say the rows' mean of each would be off by "
        f"{statistics.pstdev(true):.4g}.",
    )
    return [first, second]


def _read(run: Run) -> tuple[SampledRows | None, str]:
    """What the run kept of its test rows, or why not."""
    try:
        return SampledRows.read(run.folder), ""
    except DamagedFile as error:
        return None, f"Not shown: {error}."
    except OSError as error:
        return None, f"Not shown: {error.strerror}."


def _shown(one: Sample, columns: Sequence[str]) -> Shown:
    right = one.true == one.said
    words = f"{one.true} ✓" if right else f"{one.true} → {one.said}"
    note = "" if one.sure is None else f"{'over 99' if one.sure >= 0.995 else f'{100 * one.sure:.0f}'}% sure"
    kind = "" if one.sure is None else "right" if right else "wrong"
    names = columns if len(one.cells) > 1 else [""]
    return Shown(one.id, words, note, list(zip(names, one.cells, strict=False)), one.picture, kind)

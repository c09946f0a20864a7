"""How the trained networks do on the test set: reliability, confusion, landmarks."""

from __future__ import annotations

import base64
import io
import math

from ...rundir.result import Bin
from ...training.evaluation import BINS, MOST_CLASSES
from ..console import spread
from ..figures import NoFigure, faces
from .blocks import Block, Cell, Figure, Grid, Group, Picture, Section, System, Table, Words
from .svg import SQUARE, Line, chart

LARGEST = 12  # radius of a mark that stands for the whole test set


def predictions(group: Group) -> Section | None:
    """Confusion matrices and reliability diagrams of the best system and its baseline, seeds of a system together."""
    systems = group.pair
    blocks: list[Block] = [table for system in systems if (table := _confusion(system))]
    many = dict.fromkeys(count for system in systems if (count := _too_many(system)))
    blocks += [Words([f"{count} classes are too many for a matrix."]) for count in many]
    diagrams = [figure for system in systems if (figure := _reliability(system))]
    blocks += [Grid(diagrams, "Can its confidence be taken at its word?", "large")] if diagrams else []
    intro = "On the test rows."
    if diagrams:
        intro += " A matrix has the true class by row. In the diagram a dot on the dotted line is as often right as it is sure."
    return Section("predictions", "Which classes it mixes up", blocks, intro) if blocks else None


def _reliability(system: System) -> Figure | None:
    found = [run.result.calibration for run in system.runs if run.result.calibration]
    rows = [row for calibration in found for row in calibration["bins"]]
    if not rows:
        return None
    bins: dict[int, list[Bin]] = {}
    for row in rows:
        bins.setdefault(min(int(BINS * row["confidence"]), BINS - 1), []).append(row)
    total, points, sizes = sum(row["count"] for row in rows), [], []
    for _, inside in sorted(bins.items()):
        count = sum(row["count"] for row in inside)
        confidence, right = (sum(r[key] * r["count"] for r in inside) / count for key in ("confidence", "accuracy"))
        points.append((100 * confidence, 100 * right))
        sizes.append(max(1.5, LARGEST * math.sqrt(count / total)))
    title, line = system.titled("Right predictions, %"), Line(points, system.number, marks=sizes)
    drawing = chart(title, [line], x=(0, 100), y=(0, 100), x_label="confidence %", diagonal=True, size=SQUARE)
    off = spread([100 * c["ece"] for c in found], "{:.1f}")
    said = f"Off by {off} points in the mean (ECE); a dot's area is its share of the rows."
    return Figure(title, drawing, said)


def _confusion(system: System) -> Table | None:
    found = [run.result.confusion for run in system.runs if run.result.confusion]
    if not found or len({len(matrix) for matrix in found}) > 1:
        return None
    size = len(found[0])
    names = system.result.label_names or [str(n) for n in range(size)]
    counts = [[sum(matrix[a][b] for matrix in found) for b in range(size)] for a in range(size)]
    rows = []
    for true, row in enumerate(counts):
        total = sum(row)
        cells = [
            Cell(
                str(n) if n else "·",
                "right" if guess == true else "wrong" if n else "none",
                n / total if total else 0.0,
            )
            for guess, n in enumerate(row)
        ]
        recall = f"{100 * row[true] / total:.0f}%" if total else "-"
        rows.append([Cell(str(names[true])), *cells, Cell(recall)])
    together = f", {len(found)} seeds together" if len(found) > 1 else ""
    return Table(
        f"{system.full_name}: true class by row, predicted by column{together}",
        ["true", *map(str, names), "right"],
        rows,
        (),
        "confusion",
    )


def _too_many(system: System) -> int:
    """How many classes there are where no confusion matrix was kept because of them; else 0."""
    result = system.result
    count = len(result.label_names or ())
    return count if count > MOST_CLASSES and result.calibration and not result.confusion else 0


def overlays(group: Group) -> Section | None:
    """Fig. 3 of the paper: landmarks on test faces."""
    systems = group.featured
    if "landmark" not in systems[0].result.metric:
        return None
    from ...recipes.source import RecipeError
    from ...rundir.checkpoint import NoCheckpoint
    from ...tasks.base import MissingData

    picture = io.BytesIO()
    try:
        faces([system.runs[0] for system in systems], picture)
    except (NoFigure, MissingData, NoCheckpoint, RecipeError, OSError) as reason:
        return Section("faces", "Faces", [Words([f"Not drawn: {reason}."])])
    source = f"data:image/png;base64,{base64.b64encode(picture.getvalue()).decode()}"
    names = ", ".join(system.full_name for system in systems)
    said = f"Test faces with true landmarks and those of {names}: largest gains in the first row, largest errors in the second."
    return Section("faces", "Faces", [Picture(source, "Landmarks drawn on test faces")], said)

"""How the answers for single unlabelled rows changed: probabilities and values as lines, points as ways in a plane."""

from __future__ import annotations

import json
from typing import Any

from ...rundir.layout import LABELS
from ...rundir.stored import read_bytes
from ..runs import Run
from .blocks import Figure
from .svg import STYLES, Line, chart, shortened

EXAMPLES = 6
CLASSES = 10  # of one row
END, TRUTH = 4.0, 2.0  # radii
PLANE = (410, 300)  # with the names at its side, so that what is left is about as wide as high

Track = list[list[tuple[float, float]]]  # of each class or value, its steps


def tracks(run: Run) -> list[Figure]:
    """One chart per example; none where nothing, or nothing readable, was recorded."""
    try:
        lines = [json.loads(line) for line in read_bytes(run.folder / LABELS).decode().splitlines()]
        ids, truth = lines[0]["ids"], lines[0].get("truth") or [None] * len(lines[0]["ids"])
        drawn = _points if lines[0].get("kind") == "points" else _lines
        found = []
        for place, (name, true) in list(enumerate(zip(ids, truth, strict=False)))[:EXAMPLES]:
            track = [
                [(float(line["step"]), float(line["labels"][place][n])) for line in lines]
                for n in range(len(lines[0]["labels"][place]))
            ]
            if len(lines) > 1 and track:
                found.append(drawn(str(name), track, true, run))
        return found
    except (OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError):
        return []


def _lines(name: str, track: Track, true: Any, run: Run) -> Figure:
    names, span = run.result.label_names or [str(n) for n in range(len(track))], (0.0, track[0][-1][0])
    if not run.result.calibration:  # values, not the probabilities of classes
        lines = [Line(line, n, str(names[n])) for n, line in enumerate(track[:CLASSES])]
        known = true if isinstance(true, list) else []
        lines += [Line([(0.0, float(v)), (span[1], float(v))], n, faint=True) for n, v in enumerate(known[:CLASSES])]
        said = "; thin: the truth" if known else ""
        return Figure(f"row {name}{said}", chart(f"Label of {name}", lines, x=span))
    final = max(range(len(track)), key=lambda n: track[n][-1][1])
    largest = sorted(range(len(track)), key=lambda n: -max(value for _, value in track[n]))[:CLASSES]
    others = [Line(track[n], 5, faint=True) for n in largest if n != final]
    said = "" if true is None else f", in truth {names[int(true)]}"
    drawing = chart(f"Label of {name}", [*others, Line(track[final], 0, str(names[final]))], x=span, y=(0.0, 1.0))
    return Figure(f"row {name}: {names[final]}{said}", drawing)


def _points(name: str, track: Track, true: Any, run: Run) -> Figure:
    """The way of each point through the picture, y downwards; a dot where it ended, a ring of small dots where it should be."""
    names = run.result.label_names or [f"point {n + 1}_x" for n in range(len(track))]
    lines, places = [], []
    for n in range(0, len(track) - 1, 2):
        way = [(x, y) for (_, x), (_, y) in zip(track[n], track[n + 1], strict=True)]
        label = shortened(str(names[n]).removesuffix("_x").replace("_", " "))
        lines.append(Line(way, n // 2 % STYLES, label, marks=[0.8] * (len(way) - 1) + [END]))
        places += way
        if isinstance(true, list):
            lines.append(Line([(float(true[n]), float(true[n + 1]))], 5, marks=[TRUTH], loose=True))
            places += lines[-1].points
    ends = [(min(values), max(values)) for values in zip(*places, strict=True)]
    wide = max(high - low for low, high in ends) * 1.15 or 1.0
    (x, y) = (((low + high - wide) / 2, (low + high + wide) / 2) for low, high in ends)
    drawing = chart(f"Points of {name}", lines, x=x, y=y, x_label="x, px", down=True, size=PLANE)
    note = "Large dots: where each point ended; small grey ones: the truth." if isinstance(true, list) else ""
    return Figure(f"row {name}, in pixels", drawing, note)

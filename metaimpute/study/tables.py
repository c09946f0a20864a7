"""What the runs of a study say together: a row for each system, as text, CSV, Markdown, LaTeX and in the terminal."""

from __future__ import annotations

import csv
import io
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table
from rich.text import Text

from ..reporting.console import spread
from ..reporting.runs import comparable
from ..reporting.statistics import FROM_FIVE, Paired, paired
from ..terminal import cell
from .plan import Metric, Study
from .rows import Row
from .runs import Outcome

Outcomes = Mapping[tuple[str, int], Outcome]
NUMBERS = ("n", "mean", "std", "difference", "low", "high", "lower", "pairs", "p", "test_mean", "test_std", "failed")
NAMES = {"test_last": "test, last", "test_median": "test, median", "validation_last": "validation, last"}


@dataclass(frozen=True)
class Line:
    """One row of a study's table.

    Attributes:
        values: seed to the metric of each finished run. against: whom it is compared with, None for a baseline itself.
        difference: minus that row, on the seeds they share. best: whether it is its system's best point. test: seed to the
            test metric, of best points alone. failed: seed to the one-line reason of each run that failed.
    """

    row: Row
    values: dict[int, float]
    against: str | None
    difference: Paired | None
    best: bool
    test: dict[int, float]
    failed: dict[int, str]


def summarize(study: Study, outcomes: Outcomes) -> list[Line]:
    """A line for each row; where rows are ranked on validation rows, the best comes first."""
    values = {row.name: _values(study, row, study.metric, outcomes) for row in study.rows}
    best = _best_points(study, values)
    lines = []
    for row in study.rows:
        base = study.baselines.get(row.name)
        against = None if base in (None, row.name) else base
        fair = against is not None and _comparable(study, row.name, against, outcomes)
        beside = study.metric == "validation_last" and row.name in best
        lines.append(
            Line(
                row,
                values[row.name],
                against,
                paired(values[against], values[row.name]) if fair and against else None,
                row.name in best,
                _values(study, row, study.test_metric, outcomes) if beside else {},
                {s: o.reason for s in study.seeds if (o := outcomes[row.name, s]).status in ("diverged", "failed")},
            )
        )
    if study.metric != "validation_last":
        return lines
    return sorted(lines, key=lambda line: statistics.mean(line.values.values()) if line.values else float("inf"))


def _values(study: Study, row: Row, metric: Metric, outcomes: Outcomes) -> dict[int, float]:
    results = {seed: outcomes[row.name, seed].result for seed in study.seeds}
    return {seed: r[metric] for seed, r in results.items() if r is not None and r.get(metric) is not None}


def _best_points(study: Study, values: Mapping[str, Mapping[int, float]]) -> set[str]:
    """The row of each system with the lowest mean, among those with the most seeds: a point that failed is no best one."""
    best: dict[str, tuple[tuple[int, float], str]] = {}
    for row in study.rows:
        if values[row.name]:
            rank = (-len(values[row.name]), statistics.mean(values[row.name].values()))
            best[row.system] = min(best.get(row.system, (rank, row.name)), (rank, row.name), key=lambda pair: pair[0])
    return {name for _, name in best.values()}


def _comparable(study: Study, one: str, other: str, outcomes: Outcomes) -> bool:
    """Whether two rows were measured on the same data."""
    first, second = (
        next((r for s in study.seeds if (r := outcomes[name, s].result) is not None), None) for name in (one, other)
    )
    return first is not None and second is not None and comparable(first, second)


# numbers and cells -------------------------------------------------------------------------------------------------------


def numbers(line: Line) -> dict[str, Any]:
    """A line's statistics by name, None where there is nothing to say; ``lower``: pairs in which it is below its baseline."""
    found: dict[str, Any] = dict.fromkeys(NUMBERS)
    found |= {"n": len(line.values), "failed": len(line.failed)}
    for name, values in (("", line.values), ("test_", line.test)):
        if values:
            found[f"{name}mean"] = statistics.mean(values.values())
        if len(values) > 1:
            found[f"{name}std"] = statistics.stdev(values.values())
    if line.difference is not None:
        d = line.difference
        found |= {
            "difference": d.mean,
            "low": d.low,
            "high": d.high,
            "p": d.p,
            "lower": d.lower,
            "pairs": len(d.differences),
        }
    return found


def header(study: Study) -> list[str]:
    mean = f"{NAMES[study.metric]}: mean ± std"
    beside = [f"best point, {NAMES[study.test_metric]}"] if study.metric == "validation_last" else []
    return ["system", "n", mean, "difference", "95% interval", "p", "wins", *beside, "failed"]


def cells(study: Study, line: Line) -> list[str]:
    found = line.difference
    compared = [""] * 4 if line.against is None else ["-"] * 4
    if found is not None:
        p = "-" if found.p is None else f"{found.p:.3f}"
        wins = f"{found.lower} of {len(found.differences)}"
        compared = [f"{found.mean:+.2f}", found.interval, p, wins]
    beside = [spread(list(line.test.values())) if line.best else ""] if study.metric == "validation_last" else []
    failed = str(len(line.failed)) if line.failed else ""
    return [line.row.name, str(len(line.values)), spread(list(line.values.values())), *compared, *beside, failed]


def title(study: Study, outcomes: Outcomes) -> str:
    """What was measured on which data, under which profile."""
    first = next((o.result for o in outcomes.values() if o.result is not None), None)
    if first is None:
        return f"{study.path.stem}: no run is finished"
    return f"{study.path.stem}: {first.task} ({first.source}), {first.metric}, {first.profile} profile"


def notes(lines: Sequence[Line]) -> list[str]:
    """What stands below a table: whom differences are to, and why runs failed."""
    bases = {line.against for line in lines if line.against is not None}
    base = next(iter(bases)) if len(bases) == 1 else "the baseline at the same point,"
    known = [f"difference: minus {base} on shared seeds"] if bases else []
    if any(line.difference is not None and line.difference.low is None for line in lines):
        known.append(FROM_FIVE)
    return known + [f"{line.row.name}, seed {seed}: {reason}" for line in lines for seed, reason in line.failed.items()]


# forms -------------------------------------------------------------------------------------------------------------------


def console_table(study: Study, lines: Sequence[Line], name: str) -> Table:
    table = Table(title=cell(name), title_justify="left", caption_justify="left")
    for number, column in enumerate(header(study)):
        table.add_column(column, justify="right" if number else "left", overflow="fold")
    for line in lines:
        table.add_row(*map(cell, cells(study, line)))
    table.caption = Text("\n").join(map(cell, notes(lines)))
    return table


def csv_table(lines: Sequence[Line]) -> str:
    """Numbers unrounded, one row per system, with the grid's values and why runs failed."""
    keys = list(dict.fromkeys(key for line in lines for key in line.row.point))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["row", "system", *keys, "against", *NUMBERS, "reasons"])
    for line in lines:
        point = [line.row.point.get(key, "") for key in keys]
        found = ["" if value is None else value for value in numbers(line).values()]
        reasons = "; ".join(f"seed {seed}: {reason}" for seed, reason in line.failed.items())
        writer.writerow([line.row.name, line.row.system, *point, line.against or "", *found, reasons])
    return text.getvalue()


def markdown_table(study: Study, lines: Sequence[Line], name: str) -> str:
    rows = [header(study), *(cells(study, line) for line in lines)]
    escaped = ["| " + " | ".join(map(markdown, row)) + " |" for row in rows]
    rule = "|" + "|".join([" --- ", *([" ---: "] * (len(rows[0]) - 1))]) + "|"
    below = "".join(f"- {markdown(note)}\n" for note in notes(lines))
    return "\n".join([f"**{markdown(name)}**", "", escaped[0], rule, *escaped[1:], ""]) + (
        f"\n{below}" if below else ""
    )


def tex_table(study: Study, lines: Sequence[Line], name: str) -> str:
    """A table in the manner of the package ``booktabs``, which it needs."""
    top, *body = [
        " & ".join(map(tex, row)) + r" \\" for row in (header(study), *(cells(study, line) for line in lines))
    ]
    columns = "l" + "r" * (len(header(study)) - 1)
    below = [rf"\par {tex(note)}" for note in notes(lines)]
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{tex(name)}}}",
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            top,
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
            *below,
            r"\end{table}",
            "",
        ]
    )


def markdown(text: str) -> str:
    """A text that Markdown shows as it is, in a cell of a table too."""
    return re.sub(r"([\\`*_{}\[\]<>#|~&])", r"\\\1", " ".join(text.split()))


TEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "±": r"$\pm$",
    **{sign: f"\\{sign}" for sign in "&%$#_"},
}


def tex(text: str) -> str:
    """A text that LaTeX sets as it is; a number's sign is set as mathematics."""
    signed: Callable[[re.Match[str]], str] = lambda found: f"${found[0]}$"  # noqa: E731
    escaped = "".join(TEX.get(sign, sign) for sign in " ".join(text.split()))
    return re.sub(r"(?<![\w.])[+-]\d+(?:\.\d+)?\b", signed, escaped)

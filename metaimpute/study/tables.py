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
from ..reporting.narrow import kept
from ..reporting.runs import comparable, is_control
from ..reporting.statistics import FROM_FIVE, Paired, paired
from ..reporting.verdict import Standing, Verdict, verdict
from ..reporting.warned import warned
from ..rundir.measure import MEASURE, Measure, said
from ..terminal import cell
from .plan import Study
from .rows import Row
from .runs import Outcome

Outcomes = Mapping[tuple[str, int], Outcome]
NUMBERS = ("n", "mean", "std", "difference", "low", "high", "lower", "pairs", "p", "test_mean", "test_std", "failed")
SPARE = ("p", "wins", "n")  # columns that a narrow terminal can do without, the first one first
BEST = "*"


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
                _values(study, row, MEASURE, outcomes) if beside else {},
                {s: o.reason for s in study.seeds if (o := outcomes[row.name, s]).status in ("diverged", "failed")},
            )
        )
    if study.metric != "validation_last":
        return lines
    return sorted(lines, key=lambda line: statistics.mean(line.values.values()) if line.values else float("inf"))


def _values(study: Study, row: Row, metric: Measure, outcomes: Outcomes) -> dict[int, float]:
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


def verdict_of(study: Study, lines: Sequence[Line], outcomes: Outcomes) -> Verdict:
    """What the study says, in sentences."""
    bases = [line.against for line in lines if line.against is not None]
    base = max(bases, key=bases.count) if bases else None
    results = {
        line.row.name: [r for s in study.seeds if (r := outcomes[line.row.name, s].result) is not None]
        for line in lines
    }
    standings = [
        Standing(
            line.row.name,
            line.values,
            statistics.mean(one.training_seconds for one in found) if (found := results[line.row.name]) else None,
            is_control(study.recipes[line.row.name].problem.name),
            base in (None, line.row.name) or _comparable(study, line.row.name, str(base), outcomes),
        )
        for line in lines
    ]
    first = next((found[0] for found in results.values() if found), None)
    rows = first.test_examples if first is not None and study.metric != "validation_last" else None
    return verdict(standings, base, "" if first is None else first.metric, rows)


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
    mean = f"{_short(study.metric)}: mean ± std"
    beside = [f"best point, {_short(MEASURE)}"] if study.metric == "validation_last" else []
    return ["system", "n", mean, "difference", "95% interval", "p", "wins", *beside, "failed"]


def _short(metric: Measure) -> str:
    """A measure without its unit, which stands in the title."""
    return said(metric, "").strip()


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


def warnings_in(study: Study, outcomes: Outcomes) -> list[str]:
    """What the study's runs warned of, a line for seeds that were told alike."""
    found = []
    for row in study.rows:
        results = [r for seed in study.seeds if (r := outcomes[row.name, seed].result) is not None]
        found += warned(row.name, results)
    return found


def notes(lines: Sequence[Line]) -> list[str]:
    """What stands below a table: whom differences are to, and why runs failed."""
    bases = {line.against for line in lines if line.against is not None}
    base = next(iter(bases)) if len(bases) == 1 else "the baseline at the same point,"
    known = [f"difference: minus {base} on shared seeds"] if bases else []
    if any(line.difference is not None and line.difference.low is None for line in lines):
        known.append(FROM_FIVE)
    return known + [f"{line.row.name}, seed {seed}: {reason}" for line in lines for seed, reason in line.failed.items()]


# forms -------------------------------------------------------------------------------------------------------------------


def console_table(study: Study, lines: Sequence[Line], name: str, best: str | None = None, width: int = 200) -> Table:
    """The table for a terminal of ``width`` cells, which leaves out columns that are empty, or that it has no room for.

    Args:
        best: name of the row to mark.
    """
    head, rows = header(study), [cells(study, line) for line in lines]
    rows = [[f"{row[0]} {BEST}", *row[1:]] if row[0] == best else row for row in rows]
    shown = kept(head, rows, width, SPARE)
    table = Table(title=cell(name), title_justify="left", caption_justify="left")
    for n in shown:
        table.add_column(head[n], justify="right" if n else "left", overflow="fold")
    for line, row in zip(lines, rows, strict=True):
        table.add_row(*(cell(row[n], "bold" if line.row.name == best else "") for n in shown))
    marked = [f"{BEST} the best"] if best in [line.row.name for line in lines] else []
    table.caption = Text("\n").join(map(cell, [*marked, *notes(lines)]))
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


def markdown_table(study: Study, lines: Sequence[Line], name: str, said: Verdict | None = None) -> str:
    """The table, with what it says above it."""
    rows = [header(study), *(cells(study, line) for line in lines)]
    escaped = ["| " + " | ".join(map(markdown, row)) + " |" for row in rows]
    rule = "|" + "|".join([" --- ", *([" ---: "] * (len(rows[0]) - 1))]) + "|"
    below = "".join(f"- {markdown(note)}\n" for note in notes(lines))
    opening = (
        [*(f"{markdown(line)}\n" for line in said.lines), f"What now: {markdown(said.next)}.\n"]
        if said is not None
        else []
    )
    return "\n".join([*opening, f"**{markdown(name)}**", "", escaped[0], rule, *escaped[1:], ""]) + (
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

"""Systems side by side in the terminal: means over seeds, and paired differences on the seeds they share."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table

from ..engine.registry import describe_choices
from ..recipes.source import RecipeError
from ..rundir.measure import Measure, said, value_of
from ..terminal import cell
from .console import spread
from .narrow import kept
from .runs import Run, by_kind, comparable, errors_by_seed, measure_for, names_of, titles_of
from .statistics import FROM_FIVE, Paired, paired
from .verdict import Standing, Verdict, verdict

NARROW = 100  # cells below which a table is narrow
COLUMNS = ("system", "profile", "seeds", "mean ± std", "difference", "95% interval", "lower", "p")
SPARE = ("p", "lower", "profile", "seeds")  # columns that a narrow terminal can do without, the first one first
BEST = "*"


@dataclass(frozen=True)
class Compared:
    """Systems on one task, metric and data.

    Attributes:
        title: of them. base: name of the system that differences are to; of several, each system's is in ``bases``.
        systems: runs of each, a seed each. differences: of each to its base on the seeds that both have, where they can be
            compared. measure: what they are compared by.
    """

    title: str
    base: str
    systems: dict[str, list[Run]]
    bases: dict[str, str]
    differences: dict[str, Paired | None]
    measure: Measure

    @property
    def verdict(self) -> Verdict:
        """What the numbers say, in sentences."""
        first = self.systems[self.base][0].result
        standings = [
            Standing(
                name,
                errors_by_seed(seeds, self.measure),
                statistics.mean(run.result.training_seconds for run in seeds),
                seeds[0].is_control,
                comparable(first, seeds[0].result),
            )
            for name, seeds in self.systems.items()
        ]
        rows = first.test_examples if self.measure != "validation_last" else None
        return verdict(standings, self.base, first.metric, rows)


def compared(runs: Sequence[Run], against: str | None = None) -> list[Compared]:
    """One comparison per task, metric and data.

    Args:
        against: name of the system that differences are to; by default the one that a study names, else each comparison's first.

    Raises:
        RecipeError: when no system is called that, with the nearest.
    """
    groups = {kind: dict(zip(names_of(systems), systems, strict=True)) for kind, systems in by_kind(runs).items()}
    names = [name for systems in groups.values() for name in systems]
    if against is not None and against not in names:
        raise RecipeError(f"no system is called '{against}'; {describe_choices(against, names)}")
    measures = [measure_for(systems.values()) for systems in groups.values()]
    metrics = [said(measure, kind.metric) for measure, kind in zip(measures, groups, strict=True)]
    titles = titles_of(groups, ": ", metrics)
    return [_compared(*one, against) for one in zip(titles, groups.values(), measures, strict=True)]


def _compared(title: str, systems: dict[str, list[Run]], measure: Measure, against: str | None) -> Compared:
    bases = {name: _base_of(name, systems, against) for name in systems}
    differences = dict[str, Paired | None]()
    for name, seeds in systems.items():
        base = systems[bases[name]]
        if name != bases[name] and comparable(base[0].result, seeds[0].result):
            differences[name] = paired(errors_by_seed(base, measure), errors_by_seed(seeds, measure))
    often = max(bases.values(), key=list(bases.values()).count)
    return Compared(title, often, systems, bases, differences, measure)


def _base_of(name: str, systems: dict[str, list[Run]], against: str | None) -> str:
    """Whom a system is compared with: the one asked for, else its study's, itself where that has none, else the first."""
    study, first = systems[name][0].study, next(iter(systems))
    if against in systems:
        return str(against)
    if study is None:
        return first
    return name if study.against is None else study.against if study.against in systems else first


def comparisons(runs: Sequence[Run], against: str | None = None) -> list[dict[str, Any]]:
    """:func:`compared` as JSON has it: errors by seed, and of each difference its mean, interval, p value and count below 0."""
    return [
        {
            "title": one.title,
            "measure": one.measure,
            "against": one.base,
            "verdict": {"best": one.verdict.best, "lines": one.verdict.lines, "next": one.verdict.next},
            "systems": [
                {
                    "name": name,
                    "profile": seeds[0].result.profile,
                    "runs": [str(run.folder) for run in seeds],
                    "errors": errors_by_seed(seeds, one.measure),
                    "difference": None if (found := one.differences.get(name)) is None else asdict(found),
                }
                for name, seeds in one.systems.items()
            ],
        }
        for one in compared(runs, against)
    ]


def comparison_table(one: Compared, width: int = 200) -> Table:
    """Systems side by side, the best marked.

    Args:
        width: cells of the terminal; where it has too few, a profile that all share stands below, and columns are left out.
    """
    profiles = {seeds[0].result.profile for seeds in one.systems.values()}
    rows = [_row(one, name) for name in one.systems]
    if width < NARROW and len(profiles) == 1:
        rows = [[name, "", *row] for name, _, *row in rows]
    shown = kept(COLUMNS, rows, width, SPARE)
    table = Table(title=cell(one.title), title_justify="left", caption_justify="left")
    for n in shown:
        table.add_column(COLUMNS[n], justify="left" if n < 2 else "right", overflow="fold")
    for name, row in zip(one.systems, rows, strict=True):
        bold = "bold" if name == one.verdict.best else ""
        table.add_row(*(cell(row[n], bold) for n in shown))
    table.caption = cell(_caption(one, "" if 1 in shown else f"{profiles.pop()} profile; "))
    return table


def _row(one: Compared, name: str) -> list[str]:
    seeds, found = one.systems[name], one.differences.get(name)
    values = spread([value_of(run.result, one.measure) for run in seeds])
    row = [f"{name} {BEST}" if name == one.verdict.best else name, seeds[0].result.profile, str(len(seeds)), values]
    if found is None:
        return [*row, *([""] * 4 if name in (one.base, one.bases[name]) else ["-"] * 4)]
    p = "-" if found.p is None else f"{found.p:.3f}"
    return [*row, f"{found.mean:+.2f}", found.interval, f"{found.lower} of {len(found.differences)}", p]


def _caption(one: Compared, before: str) -> str:
    bases = {base for name, base in one.bases.items() if base != name}
    to = one.base if len(bases) < 2 else "each system's own baseline"
    best = f"{BEST} the best; " if one.verdict.best else ""
    any_interval = any(pair is not None and pair.low is not None for pair in one.differences.values())
    return f"{best}{before}differences to {to} on shared seeds{'' if any_interval else f'; {FROM_FIVE}'}"

"""Systems side by side in the terminal: means over seeds, and paired differences on the seeds they share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table

from ..engine.registry import describe_choices
from ..recipes.source import RecipeError
from ..terminal import cell
from .console import spread
from .runs import Run, by_kind, comparable, errors_by_seed, names_of, titles_of
from .statistics import FROM_FIVE, Paired, paired

NARROW = 100  # cells below which a table is narrow
COLUMNS = ("system", "profile", "seeds", "difference", "95% interval", "lower", "p")


@dataclass(frozen=True)
class Compared:
    """Systems on one task, metric and data.

    Attributes:
        title: of them. base: name of the system that differences are to. systems: runs of each, a seed each.
        differences: of each to the base on the seeds that both have, where they can be compared.
    """

    title: str
    base: str
    systems: dict[str, list[Run]]
    differences: dict[str, Paired | None]


def compared(runs: Sequence[Run], against: str | None = None) -> list[Compared]:
    """One comparison per task, metric and data.

    Args:
        against: name of the system that differences are to; by default each comparison's first.

    Raises:
        RecipeError: when no system is called that, with the nearest.
    """
    groups = {kind: dict(zip(names_of(systems), systems, strict=True)) for kind, systems in by_kind(runs).items()}
    names = [name for systems in groups.values() for name in systems]
    if against is not None and against not in names:
        raise RecipeError(f"no system is called '{against}'; {describe_choices(against, names)}")
    found = []
    for title, systems in zip(titles_of(groups, ": test "), groups.values(), strict=True):
        base = against if against in systems else next(iter(systems))
        first, differences = systems[base], dict[str, Paired | None]()
        for name, seeds in systems.items():
            if name != base and comparable(first[0].result, seeds[0].result):
                differences[name] = paired(errors_by_seed(first), errors_by_seed(seeds))
        found.append(Compared(title, base, systems, differences))
    return found


def comparison_tables(runs: Sequence[Run], against: str | None = None, width: int = 200) -> list[Table]:
    """:func:`compared` as tables.

    Args:
        width: cells of the terminal; in a narrow one a profile that all share stands below, and empty columns are left out.
    """
    return [_table(one, width < NARROW) for one in compared(runs, against)]


def comparisons(runs: Sequence[Run], against: str | None = None) -> list[dict[str, Any]]:
    """:func:`compared` as JSON has it: errors by seed, and of each difference its mean, interval, p value and count below 0."""
    return [
        {
            "title": one.title,
            "against": one.base,
            "systems": [
                {
                    "name": name,
                    "profile": seeds[0].result.profile,
                    "runs": [str(run.folder) for run in seeds],
                    "errors": errors_by_seed(seeds),
                    "difference": None if (found := one.differences.get(name)) is None else asdict(found),
                }
                for name, seeds in one.systems.items()
            ],
        }
        for one in compared(runs, against)
    ]


def _table(one: Compared, narrow: bool) -> Table:
    table = Table(title=cell(one.title), title_justify="left")
    profiles = {seeds[0].result.profile for seeds in one.systems.values()}
    names = (*COLUMNS[:3], "mean ± std", *COLUMNS[3:])
    left_out = {"profile"} if narrow and len(profiles) == 1 else set()
    left_out |= {"difference", "95% interval", "lower", "p"} if narrow and not any(one.differences.values()) else set()
    for column in names:
        if column not in left_out:
            table.add_column(column, justify="left" if column in COLUMNS[:2] else "right", overflow="fold")
    for name, seeds in one.systems.items():
        row = [
            name,
            seeds[0].result.profile,
            str(len(seeds)),
            spread([r.result.test_last for r in seeds]),
        ]
        found = one.differences.get(name)
        if found is None:
            row += [""] * 4 if name == one.base else ["-"] * 4
        else:
            p = "-" if found.p is None else f"{found.p:.3f}"
            row += [f"{found.mean:+.2f}", found.interval, f"{found.lower} of {len(found.differences)}", p]
        table.add_row(*(cell(value) for name, value in zip(names, row, strict=True) if name not in left_out))
    shared = f"{profiles.pop()} profile; " if "profile" in left_out else ""
    table.caption = cell(f"{shared}differences to {one.base} on shared seeds; {FROM_FIVE}")
    return table

"""Systems side by side in the terminal: means over seeds, and paired differences on the seeds they share."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from ..engine.registry import describe_choices
from ..recipes.source import RecipeError
from ..terminal import cell
from .console import spread
from .runs import Run, by_kind, comparable, errors_by_seed, names_of, titles_of
from .statistics import FROM_FIVE, paired

COLUMNS = ("system", "profile", "seeds", "difference", "95% interval", "lower", "p")


def comparison_tables(runs: Sequence[Run], against: str | None = None) -> list[Table]:
    """One table per task, metric and data.

    Args:
        against: name of the system that differences are to; by default each table's first.

    Raises:
        RecipeError: when no system is called that, with the nearest.
    """
    groups = {kind: dict(zip(names_of(systems), systems, strict=True)) for kind, systems in by_kind(runs).items()}
    names = [name for systems in groups.values() for name in systems]
    if against is not None and against not in names:
        raise RecipeError(f"no system is called '{against}'; {describe_choices(against, names)}")
    return [
        _table(title, systems, against if against in systems else next(iter(systems)))
        for title, systems in zip(titles_of(groups, ": test "), groups.values(), strict=True)
    ]


def _table(title: str, systems: dict[str, list[Run]], base: str) -> Table:
    table = Table(title=cell(title), title_justify="left")
    for column in (*COLUMNS[:3], "mean ± std", *COLUMNS[3:]):
        table.add_column(column, justify="left" if column in COLUMNS[:2] else "right", overflow="fold")
    first = systems[base]
    for name, seeds in systems.items():
        row = [
            name,
            seeds[0].result.profile,
            str(len(seeds)),
            spread([r.result.test_last for r in seeds]),
        ]
        found = None
        if name != base and comparable(first[0].result, seeds[0].result):
            found = paired(errors_by_seed(first), errors_by_seed(seeds))
        if found is None:
            row += [""] * 4 if name == base else ["-"] * 4
        else:
            p = "-" if found.p is None else f"{found.p:.3f}"
            row += [f"{found.mean:+.2f}", found.interval, f"{found.lower} of {len(found.differences)}", p]
        table.add_row(*map(cell, row))
    table.caption = cell(f"differences to {base} on shared seeds; {FROM_FIVE}")
    return table

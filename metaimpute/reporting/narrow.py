"""Tables in a terminal too narrow for them: the least telling columns stay away, or the columns come in several tables."""

from __future__ import annotations

from collections.abc import Sequence

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table

BORDER = 3  # cells between two columns
NAME = 24  # cells of the first column at least, which may fold


def kept(header: Sequence[str], rows: Sequence[Sequence[str]], width: int, spare: Sequence[str]) -> list[int]:
    """Places of the columns to show: without empty ones, and without as many of ``spare``, in their order, as do not fit.

    Args:
        header: names of the columns. width: cells of the terminal.
    """
    wide = [max(map(cell_len, column), default=0) for column in zip(header, *rows, strict=True)]
    wide[0] = min(wide[0], max(NAME, cell_len(header[0])))
    shown = [n for n in range(len(header)) if n == 0 or any(row[n] for row in rows)]
    for name in spare:
        if sum(wide[n] + BORDER for n in shown) + 1 <= width:
            break
        shown = [n for n in shown if header[n] != name]
    return shown


def in_parts(table: Table, console: Console) -> list[Table]:
    """The table, or where it is wider than the terminal several with its names in each, so that no number is broken.

    Names are the columns up to the last that is set to the left.
    """
    unbound = console.options.update(max_width=10_000)
    columns = table.columns
    names = [*range(max((n for n, one in enumerate(columns) if one.justify == "left"), default=0) + 1)]
    wide = [console.measure(_with(table, [n], False), options=unbound).maximum for n in range(len(columns))]
    if console.measure(table, options=unbound).maximum <= console.width or len(columns) < len(names) + 2:
        return [table]
    groups: list[list[int]] = [[]]
    for n in range(len(names), len(columns)):
        full = sum(wide[m] for m in (*names, *groups[-1], n))
        if groups[-1] and full > console.width:
            groups.append([])
        groups[-1].append(n)
    return [_with(table, [*names, *group], number == 0) for number, group in enumerate(groups)]


def _with(table: Table, places: Sequence[int], titled: bool) -> Table:
    found = Table(
        title=table.title if titled else None, title_justify=table.title_justify, box=table.box, pad_edge=table.pad_edge
    )
    for n in places:
        column = table.columns[n]
        found.add_column(column.header, justify=column.justify, overflow=column.overflow)
    for row in zip(*(table.columns[n].cells for n in places), strict=True):
        found.add_row(*row)
    return found

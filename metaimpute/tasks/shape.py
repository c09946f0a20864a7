"""The shape of a text table before it is read: what separates its cells, its header, and that every row has as many cells.

A reader that finds a row too long or too short has to guess, as pandas does when it takes the first cells for an index. Here
nobody guesses: the first such row is named by its line.
"""

from __future__ import annotations

import csv
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TextIO

from .base import TaskError
from .encodings import opened
from .quoting import safe

QUOTED = re.compile(r'"[^"]*("|$)')
NAMED = re.compile(r'"?sep=(.)"?\s*', re.IGNORECASE)  # Excel's own line above the header
LOOKED_AHEAD = 20
_LIMIT = threading.Lock()


@dataclass(frozen=True)
class Shape:
    """How the rows of a text table lie in its file.

    Attributes:
        separator: between cells. skipped: lines before the header. header: as written. lines: where each row begins, from 1.
    """

    separator: str
    skipped: int
    header: list[str]
    lines: list[int]


def survey(path: Path) -> Shape:
    """The shape of a table.

    Raises:
        TaskError: naming a row with more or fewer cells than the header, a title above the header, two columns of one name.
    """
    with opened(path) as file, _long_cells():
        separator, skipped = _separator(file)
        records = _records(path, file, separator, skipped)
        at, header = next(records, (1, []))
        if not header:
            raise TaskError(f"{path} cannot be read as a table (it is empty)")
        lines: list[int] = []
        for line, cells in records:
            if len(cells) != len(header):
                ahead = [cells, *(more for _, more in islice(records, LOOKED_AHEAD))]
                raise TaskError(_misshapen(path, separator, at, header, line, ahead))
            if not lines:
                _check_header(path, at, header, cells)
            lines.append(line)
    return Shape(separator, skipped, header, lines)


def _separator(file: TextIO) -> tuple[str, int]:
    """Commas, semicolons or tabs, whichever the first line has most of outside quotes, or what a line ``sep=`` names."""
    first = file.readline()
    named = NAMED.fullmatch(first)
    if named is not None:
        return named[1], 1
    file.seek(0)
    return max(",;\t", key=QUOTED.sub("", first).count), 0


def _records(path: Path, file: TextIO, separator: str, skipped: int) -> Iterator[tuple[int, list[str]]]:
    """The line each record begins at, and its cells; blank lines are none, as for pandas.

    Raises:
        TaskError: for a NUL byte, at which pandas would end a cell.
    """
    last = [""]

    def lines() -> Iterator[str]:
        for number, line in enumerate(file, skipped + 1):
            if "\0" in line:
                raise TaskError(f"{path}, line {number}: a NUL byte, which no text holds; is the file damaged?")
            last[0] = line
            yield line

    reader = csv.reader(lines(), delimiter=separator)
    before = 0
    for cells in reader:
        single, line = reader.line_num == before + 1, skipped + before + 1
        before = reader.line_num
        if not (single and not last[0].strip("\r\n" + " \t".replace(separator, ""))):
            yield line, cells


def _misshapen(path: Path, separator: str, at: int, header: list[str], line: int, ahead: list[list[str]]) -> str:
    """Why the record at ``line`` does not fit the header at line ``at``; ``ahead``: it and those after it."""
    cells, width, named = ahead[0], len(header), [name for name in header if name.strip()]
    alike = len(ahead) > 1 and len({len(row) for row in ahead}) == 1
    ends = all(not "".join(row[width:]).strip() for row in ahead)
    shown = {"\t": "a tab"}.get(separator, f"'{separator}'")
    counted = f"{path}, line {line}: {_cells(len(cells))}, but the header in line {at} has {width}"
    if len(cells) < width and any("\n" in cell or "\r" in cell for cell in cells):
        return f"{counted}, and runs over several lines: is a quote left open there?"
    if len(cells) == 1 and alike:
        return f"{counted}, as in the rows after it: do they separate their cells by something else than the header's {shown}?"
    if len(cells) < width:
        return f"{counted}; give every row as many cells as the header, blank ones too"
    if ends:
        return (
            f"{counted}: the row ends in {shown}, which the header lacks; take it away there, or add it to the header"
        )
    if alike and len(named) == 1:
        return f"{counted}: is line {at} a title? The header must be the first line; take away what stands above it"
    if alike:
        return f"{counted}, as in the rows after it; give every column a name, that of row names too"
    return f"{counted}; a cell that holds {shown} must stand in quotes"


def _check_header(path: Path, at: int, header: list[str], first: list[str]) -> None:
    named = [name for name in header if name.strip()]
    if len(header) > 2 and len(named) == 1 and sum(bool(cell.strip()) for cell in first) > 1:
        raise TaskError(f"{path}, line {at}: is '{safe(named[0])}' a title? The header must be the first line")
    check_names(path, named)


def check_names(path: Path, names: list[str]) -> None:
    """Raises:
    TaskError: for two columns of one name, of which nobody knows which is meant."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise TaskError(f"{path}: two columns are called '{safe(name)}'; give one of them another name")
        seen.add(name)


def _cells(count: int) -> str:
    return f"{count} cell" + "s" * (count != 1)


@contextmanager
def _long_cells() -> Iterator[None]:
    """Lets csv read cells of any length; its limit is the whole process's, so that one at a time moves it."""
    with _LIMIT:
        before = csv.field_size_limit(sys.maxsize)
        try:
            yield
        finally:
            csv.field_size_limit(before)

"""Which columns of a table are numbers and which are words, decided by their cells, and what decided it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING

import numpy as np

from .base import TaskError
from .doubts import PLACEHOLDERS, Doubt, counted, means_none, named, near, written_otherwise
from .files import Table, column, written
from .quoting import quoted, safe
from .readings import Numbers, as_numbers

if TYPE_CHECKING:
    from pandas import Series


def sort_out(
    table: Table, names: Iterable[str], options: Mapping[str, Sequence[str]], commas: Iterable[str] = ()
) -> list[str]:
    """Makes, in place, the columns of numbers numeric, and leaves the others as words; a line for each decision that is to be
    said.

    Args:
        options: ``words``, columns that are words whatever their cells are; ``numbers``, columns that are numbers. commas:
            further columns that were read with decimal commas.

    Raises:
        Doubt: where a few cells among numbers are none.
    """
    import pandas

    said: list[str] = []
    commas = list(commas)
    for name in names:
        cells = table.frame[name]
        if name in options["words"] or pandas.api.types.is_datetime64_any_dtype(cells) or of_truth_values(cells):
            continue
        if pandas.api.types.is_numeric_dtype(cells):
            said += _out_of_range(table, name, cells)
            continue
        read = as_numbers(cells, commas=table.commas)
        if name in options["numbers"]:
            _all_numbers(table, name, cells, read)
        if name in options["numbers"] or (table.separator is None and _of_decimals(cells)):
            table.frame[name] = read.values
            commas += [name] if read.commas else []
            said += [f"column '{safe(name)}': {read.said}"] if read.example else []
        elif table.separator is None:
            said += _typed_as_words(name, read)
        elif not read.odd and read.values.notna().any():
            table.frame[name] = read.values
            commas += [name] if read.commas else []
            said += [f"column '{safe(name)}': {read.said}"] if read.example else []
        elif read.odd:
            said += _mixed(table, name, cells, read)
    return said + commas_said([name for name in table.frame.columns if name in commas])


def as_trained(table: Table, numbers: Iterable[str], *, typed: bool = False) -> list[str]:
    """Makes, in place, the columns numeric that are so in training; a line for each in which cells are no numbers, which count
    as blank.

    Args:
        typed: leave columns that are numeric as they are, so that rows can be compared with those of training.

    Raises:
        TaskError: naming a column that is not there, or of which no cell is a number.
    """
    import pandas

    said: list[str] = []
    commas: list[str] = []
    for name in numbers:
        cells = column(table.frame, name, "columns", table.path)
        read = as_numbers(cells, commas=table.commas)
        commas += [name] if read.commas else []
        if read.odd:
            words = written(cells.iloc[read.odd])
            if read.values.isna().all():
                shown = quoted(list(dict.fromkeys(words)))
                raise TaskError(
                    f"{table.path}: column '{safe(name)}' holds numbers in training, and here no cell is one: {shown}"
                )
            shown = named(words, read.odd, table.where)
            said.append(
                f"column '{safe(name)}': {counted(len(read.odd), len(cells))} are no number and count as blank: {shown}"
            )
        if read.odd or not (typed and pandas.api.types.is_numeric_dtype(cells)):
            table.frame[name] = read.values
    return commas_said(commas) + said


def commas_said(names: list[str]) -> list[str]:
    """The line that says where decimal commas were read."""
    return [f"read 1,5 as a number in columns {quoted(names)}"] if names else []


def of_truth_values(cells: Series) -> bool:
    """Whether a column holds True and False with gaps, which pandas keeps as objects."""
    known = cells.dropna()
    return known.dtype == object and all(isinstance(cell, bool | np.bool_) for cell in known)


def _of_decimals(cells: Series) -> bool:
    """Whether a column holds decimal numbers of Parquet, which pandas keeps as objects."""
    known = cells.dropna()
    return len(known) > 0 and known.dtype == object and all(isinstance(cell, Decimal) for cell in known)


def _out_of_range(table: Table, name: str, cells: Series) -> Iterable[str]:
    """A line for infinite cells, which can only be blank.

    Raises:
        Doubt: for a finite one that is too large to compute with: it may mean "none", or be a slip.
    """
    odd = as_numbers(cells).odd
    if not odd:
        return
    values = cells.iloc[odd].astype("float64")
    finite = [row for row, value in zip(odd, values, strict=True) if np.isfinite(value)]
    if finite:
        raise _question(table, name, cells, finite, "are beyond 3.4e38, more than can be computed with", words=False)
    shown = named(written(cells.iloc[odd]), odd, table.where)
    yield f"column '{safe(name)}': {counted(len(odd), len(cells))} are infinite and count as blank: {shown}"


def _all_numbers(table: Table, name: str, cells: Series, read: Numbers) -> None:
    """Raises:
    TaskError: for a column called one of numbers in which no cell is one. Doubt: where some are none.
    """
    if read.values.isna().all():
        shown = named(written(cells.iloc[read.odd]), read.odd, table.where)
        raise TaskError(f"numbers: no cell of column '{safe(name)}' is a number: {shown or 'all are blank'}")
    if read.odd:
        raise _question(table, name, cells, read.odd, "are no number to compute with", words=False)


def _mixed(table: Table, name: str, cells: Series, read: Numbers) -> Iterable[str]:
    words = written(cells.iloc[read.odd])
    numbers = read.values.dropna().tolist()
    if not numbers and len(set(words)) > PLACEHOLDERS and written_otherwise(words):
        first = named(words[:1], read.odd[:1], table.where)
        yield (
            f"column '{safe(name)}' is taken as words: its cells look like numbers and none is one, e.g. {first}; write them "
            "with a decimal point and nothing else if they are"
        )
    if numbers and near(words, numbers):
        raise _question(table, name, cells, read.odd, "are no number to compute with")
    if len(numbers) > len(words):
        shown = named(words, read.odd, table.where)
        yield f"column '{safe(name)}' is taken as words: {counted(len(words), int(cells.notna().sum()))} are no number: {shown}"


def _question(table: Table, name: str, cells: Series, rows: list[int], why: str, words: bool = True) -> Doubt:
    odd = written(cells.iloc[rows])
    none = means_none(name, list(dict.fromkeys(odd))[:5])
    as_words, without = (f"{option}: {json.dumps([name], ensure_ascii=False)}" for option in ("words", "ignore"))
    mend = written_otherwise(odd)
    ways = [
        "write them as the others" if mend else "",
        f"{none} if that means none",
        f"{as_words} if all cells are words" if words else "",
        without,
        "" if mend else "or mend the file",
    ]
    return Doubt(
        f"file: column '{safe(name)}': {counted(len(rows), int(cells.notna().sum()))} {why}: {named(odd, rows, table.where)}; "
        + ", ".join(filter(None, ways)),
        "" if mend else none,
    )


def _typed_as_words(name: str, read: Numbers) -> Iterable[str]:
    count = int(read.values.notna().sum())
    if count > len(read.odd) and read.values.nunique() > 2:
        shown = "every cell is a number" if not read.odd else f"{counted(count, count + len(read.odd))} are numbers"
        way = f"numbers: {json.dumps([name], ensure_ascii=False)} if they count"
        yield f"column '{safe(name)}' is taken as words, as the file has it, though {shown}; {way}"

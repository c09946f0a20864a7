"""The rows of one's own table from its files: the training file and, where there is one, the test file, read alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .base import TaskError
from .column_kinds import as_trained, of_truth_values, sort_out
from .files import Table, column, place_of, read_table, refuse_nested, written
from .locate import locate_file
from .quoting import how_many, safe
from .readings import MissingValues, as_numbers, blank_out
from .row_names import no_names, trouble
from .targets import are_values

if TYPE_CHECKING:
    from pandas import DataFrame, Series


@dataclass(frozen=True)
class Rows:
    """All rows, those of the test file last.

    Attributes:
        frame: numbered from 0. before: how many are not of the test file. tables: the files. said: what was decided of the
            columns, a line each. commas: whether targets are numbers with decimal commas and others, which decide nothing yet.
        of_target: whether targets are numbers with decimal commas.
    """

    frame: DataFrame
    tables: tuple[Table, ...]
    said: tuple[str, ...]
    commas: bool
    of_target: bool = False

    @property
    def before(self) -> int:
        return len(self.tables[0].frame)

    def where(self, rows: Sequence[int]) -> str:
        """The lines of some rows, in the first file that holds any of them."""
        first = [row for row in rows if row < self.before]
        return self.tables[0].where(first) if first else self.tables[1].where([row - self.before for row in rows])


def read_rows(
    files: Sequence[str],
    target: str,
    identity: str,
    options: Mapping[str, Sequence[str]],
    missing_values: MissingValues,
) -> Rows:
    """The rows of one file, or of two, of which the second holds the test rows.

    Args:
        target: column to predict. identity: column of names, or empty. options: columns by option: ``ignore``, ``words``,
            ``numbers``, ``keep``.

    Raises:
        TaskError: ``option: reason``, e.g. for a column that a file does not have. Doubt: where a column can be read in two ways.
    """
    import pandas
    from pandas.api.types import is_numeric_dtype

    options = {"target": [target], "id": [identity], **options}
    first = _checked(read_table(_found(files[0]), (target, identity), options["words"]), options, missing_values)
    names = [name for name in first.frame.columns if name not in (target, identity or None, *options["ignore"])]
    both = [name for name in options["numbers"] if name in options["words"]]
    if both:
        raise TaskError(f"numbers: column '{safe(both[0])}' is in words too; it can be one of them")
    refuse_nested(first.path, first.frame, names, "ignore")
    _as_words(first, options["words"])
    commas, odd, said = _decimal_target(first, target)
    said += sort_out(first, names, options, [target] if commas and not odd else [])
    tables = [first]
    for file in files[1:]:
        numbers = [name for name in names if is_numeric_dtype(first.frame[name])]
        words = [name for name in names if name not in numbers and not of_truth_values(first.frame[name])]
        table = _checked(read_table(_found(file), (target, identity), words), options, missing_values)
        for name in names:
            column(table.frame, name, "test", table.path)
        _as_words(table, words)
        more, wrong, _ = _decimal_target(table, target)
        commas, odd = commas or more, odd or wrong
        said += as_trained(table, numbers, typed=True)
        tables.append(table)
    frame = pandas.concat([table.frame for table in tables], ignore_index=True)
    for name in names:  # truth values in one file, with gaps in the other
        if is_numeric_dtype(first.frame[name]) and not is_numeric_dtype(frame[name]):
            frame[name] = frame[name].astype("float64")
    for table in tables:
        bare = _bare(table.frame)
        said += [f"{how_many(len(bare), 'row')} with nothing at all: {table.where(bare)}"] if bare else []
    return Rows(frame, tuple(tables), tuple(said), commas and odd, commas)


def _found(name: str) -> Path:
    path = locate_file(name)
    assert path is not None
    return path


def _checked(table: Table, options: Mapping[str, Sequence[str]], missing_values: MissingValues) -> Table:
    """A file's rows, blank where ``missing_values`` says so, with every column that an option names, and names that tell rows
    apart."""
    named = list(missing_values) if isinstance(missing_values, dict) else []
    for option, names in {**options, "missing_values": named}.items():
        for name in filter(None, names):
            (place_of if option == "ignore" else column)(table.frame, name, option, table.path)
    blank_out(table.frame, missing_values)
    for identity in filter(None, options["id"]):
        wrong = trouble(table, identity, missing_values is not None)
        if wrong:
            raise TaskError(no_names(identity, wrong))
    return table


def _as_words(table: Table, names: Sequence[str]) -> None:
    """Makes words of columns that the file has as numbers, which Parquet may."""
    from pandas import Series
    from pandas.api.types import is_numeric_dtype

    for name in names:
        cells = table.frame[name]
        if is_numeric_dtype(cells):
            table.frame[name] = Series(written(cells), index=cells.index, dtype=object).where(cells.notna())


def _bare(frame: DataFrame) -> list[int]:
    """Rows in which every cell is blank, as spreadsheets leave them below a table."""
    from pandas.api.types import is_numeric_dtype

    left = np.arange(len(frame))
    for name in frame.columns:
        cells = frame[name].iloc[left]
        left = left[
            cells.isna().to_numpy() | (False if is_numeric_dtype(cells) else cells.astype(str).str.strip() == "")
        ]
    return left.tolist()


def _decimal_target(table: Table, target: str) -> tuple[bool, bool, list[str]]:
    """Whether the target has decimal commas, and whether other cells too; its cells are numbers afterwards if it has not.

    Values written for a person, as ``$1,200``, are numbers afterwards too, as a line says; classes called so keep their names.
    """
    read, said = as_numbers(table.frame[target], commas=table.commas), list[str]()
    if not read.odd and (read.commas or (read.example and _are_values(read.values))):
        table.frame[target] = read.values
        said = [f"target '{safe(target)}': {read.said}"] if read.example else []
    return read.commas, bool(read.odd), said


def _are_values(numbers: Series) -> bool:
    words = [label for label in written(numbers) if label]
    return are_values(sorted(set(words)), len(words))

"""Tables in the user's files, CSV or Parquet, read by pandas, with errors that name the option or the column."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..engine.registry import describe_choices
from .base import Missing, TaskError
from .encodings import opened
from .locate import data_folders, expanded
from .quoting import safe
from .readings import as_numbers
from .shape import check_names, survey

if TYPE_CHECKING:
    from pandas import DataFrame, Series

EXACT = 2**53  # whole numbers up to here are floats of their own
PARQUET = frozenset((".parquet", ".pq"))
TABLES = PARQUET | {".csv", ".tsv"}
NA_WORDS = frozenset((  # what pandas takes for no value in a cell of a text file
    "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA", "NULL", "NaN",
    "None", "n/a", "nan", "null",
))  # fmt: skip
# of a frame's attrs: columns of Parquet that are neither numbers nor words, and what they are
NESTED = "metaimpute.nested"
LONGEST_WHOLE = 1e22  # from here on a whole number is written with an exponent


def is_table(path: Path) -> bool:
    """Whether a file is a table by its suffix."""
    return path.suffix.lower() in TABLES


def missing_file(name: str, remedy: str = "give the path of a CSV or Parquet file") -> Missing:
    places = [name] if expanded(name).is_absolute() else [name, *(str(f / name) for f in data_folders())]
    return Missing(f"file {name}", tuple(places), remedy)


_in_memory: ContextVar[Path | None] = ContextVar("_in_memory", default=None)


@contextmanager
def held_in_memory(path: Path) -> Iterator[None]:
    """While the block lasts, a file stands for data that a program holds: messages name its rows, from 0, and not lines."""
    token = _in_memory.set(path)
    try:
        yield
    finally:
        _in_memory.reset(token)


@dataclass(frozen=True)
class Table:
    """A table as it was read.

    Attributes:
        frame: its rows; columns are called by strings, no two the same, and the index counts from 0.
        lines: of a text file, where each row begins. separator: of its cells; None for Parquet, whose cells have types.
    """

    path: Path
    frame: DataFrame
    lines: list[int] | None
    separator: str | None

    @property
    def commas(self) -> bool:
        """Whether a comma can be a decimal one: where commas separate the cells, ``1,5`` may as well be a thousand and more."""
        return self.separator not in (None, ",")

    def where(self, rows: Sequence[int], most: int = 3) -> str:
        """The lines of some rows for a message, e.g. ``line 7 of t.csv``; of Parquet the numbers of the rows, from 0."""
        held = self.path == _in_memory.get()
        lines = None if held else self.lines
        kind = "row" if lines is None else "line"
        numbers = [str(row if lines is None else lines[row]) for row in rows[:most]]
        if len(rows) > most:
            shown = f"{', '.join(numbers)} and {len(rows) - most:,} more"
        else:
            shown = " and ".join(filter(None, (", ".join(numbers[:-1]), numbers[-1])))
        return f"{kind}{'s' * (len(rows) > 1)} {shown} of {'the data' if held else self.path.name}"


def read_table(path: Path, as_text: Iterable[str] = (), as_words: Iterable[str] = ()) -> Table:
    """A table; blank cells are NaN. Commas, semicolons or tabs separate, whichever the first line has most of.

    Args:
        as_text: columns whose cells are kept as they are written, e.g. labels, of which ``01`` is not ``1`` and ``None`` is
            no blank. as_words: columns of which ``01`` is not ``1`` either, but ``None`` and what else pandas takes for none is.

    Raises:
        TaskError: when it cannot be read, or a row has more or fewer cells than the header, by line.
    """
    try:
        if path.suffix.lower() in PARQUET:
            return Table(path, _parquet(path), None, None)
        return _text(path, set(as_text), set(as_words))
    except ImportError:
        raise TaskError(f"{path} is a Parquet file; to read it: pip install pyarrow") from None
    except TaskError:
        raise
    except (OSError, ValueError, csv.Error) as error:  # pandas' and pyarrow's errors for damaged files are ValueErrors
        raise TaskError(f"{path} cannot be read as a table ({(str(error).splitlines() or ['empty'])[0]})") from None


def read_frame(path: Path, as_text: Iterable[str] = ()) -> DataFrame:
    """The rows of :func:`read_table`."""
    return read_table(path, as_text).frame


def _parquet(path: Path) -> DataFrame:
    """Rows of a Parquet file. An index with a name is a column, one without is the numbers of the rows."""
    import pandas
    from pyarrow import types
    from pyarrow.parquet import read_schema, read_table

    try:
        frame = pandas.read_parquet(path)
    except ValueError:
        check_names(path, read_schema(path).names)  # two columns of one name, in words of ours
        raise
    schema = read_schema(path)
    for name in [
        e.name for e in schema if types.is_integer(e.type) and e.name in frame and frame[e.name].dtype.kind == "f"
    ]:
        exact = read_table(path, columns=[name]).column(name).to_pylist()  # a gap makes floats of them, of 16 digits
        if any(value is not None and abs(value) > EXACT for value in exact):
            frame[name] = pandas.Series(exact, dtype=object, index=frame.index)
    named = [name for name in frame.index.names if name is not None]
    frame = frame.reset_index(level=named).reset_index(drop=True) if named else frame.reset_index(drop=True)
    frame.columns = [str(name) for name in frame.columns]
    check_names(path, list(frame.columns))
    frame = durations_in_seconds(frame)
    held = {str(entry.name): entry.type for entry in schema if str(entry.name) in frame}
    frame.attrs[NESTED] = {name: str(kind) for name, kind in held.items() if _is_nested(kind)}
    for name in frame.attrs[NESTED]:
        frame[name] = frame[name].map(str)
    return frame


def durations_in_seconds(frame: DataFrame) -> DataFrame:
    """The frame with durations as numbers of seconds."""
    import pandas

    found = {name: frame[name] for name in frame.columns if _are_durations(frame[name])}
    seconds = {name: pandas.to_timedelta(cells.astype(object)).dt.total_seconds() for name, cells in found.items()}
    return frame.assign(**seconds) if seconds else frame


def _are_durations(cells: Series) -> bool:
    import pandas

    dtype = cells.dtype
    if isinstance(dtype, pandas.ArrowDtype):
        return str(dtype.pyarrow_dtype).startswith("duration")
    known = cells.dropna() if pandas.api.types.is_object_dtype(cells) else cells.iloc[:0]
    return pandas.api.types.is_timedelta64_dtype(cells) or (
        len(known) > 0 and all(isinstance(cell, timedelta) for cell in known)
    )


def _is_nested(kind: Any) -> bool:
    """Whether cells of an Arrow type hold neither a number nor words: lists, records, bytes."""
    from pyarrow import types

    kind = kind.value_type if types.is_dictionary(kind) else kind
    tests = (types.is_nested, types.is_binary, types.is_large_binary, types.is_fixed_size_binary)
    return any(test(kind) for test in tests)


def refuse_nested(path: Path, frame: DataFrame, names: Iterable[str], ignore: str = "") -> None:
    """For columns of Parquet that hold lists, records or bytes.

    Args:
        names: of the columns that are used. ignore: the option that leaves columns out, where there is one.

    Raises:
        TaskError: naming all of them.
    """
    nested: dict[str, str] = frame.attrs.get(NESTED, {})
    found = [name for name in names if name in nested]
    if not found:
        return
    held = ", ".join(f"'{safe(name)}' ({nested[name]})" for name in found[:5])
    held += f" and {len(found) - 5:,} more" if len(found) > 5 else ""
    way = "write what matters of them as columns of their own"
    way += f", or leave them out: {ignore}: {json.dumps(found, ensure_ascii=False)}" if ignore else ""
    columns = "columns hold" if len(found) > 1 else "a column holds"
    raise TaskError(f"{path}: {columns} neither numbers nor words: {held}; {way}")


def _text(path: Path, as_text: set[str], as_words: set[str]) -> Table:
    import pandas

    shape = survey(path)
    kept = as_text | as_words

    def cells(**options: Any) -> DataFrame:
        with opened(path) as file:
            for _ in range(shape.skipped):
                file.readline()
            return pandas.read_csv(file, sep=shape.separator, index_col=False, low_memory=False, **options)

    frame = cells(dtype=dict.fromkeys(kept, str))
    if len(frame) != len(shape.lines):
        raise TaskError(f"{path} cannot be read as a table (its rows cannot be told apart; is a quote left open?)")
    words = [name for name in frame.columns if name in kept]
    if words:
        written_cells = cells(dtype=str, keep_default_na=False, usecols=words)
        for name in words:
            column = written_cells[name]
            blank = column.str.strip() == ""
            frame[name] = column.where(~(blank if name in as_text else blank | column.str.strip().isin(NA_WORDS)))
    return Table(path, frame, shape.lines, shape.separator)


def read_decimal_commas(path: Path, frame: DataFrame, kept: Iterable[str] = ()) -> list[str]:
    """Turns columns of numbers with a decimal comma into numbers, in place; their names.

    Where commas separate the cells, ``1,5`` may as well be a thousand and more, and nothing is done.

    Args:
        path: the file that the table was read from. kept: columns left as they are.
    """
    import pandas

    if path.suffix.lower() in PARQUET or survey(path).separator == ",":
        return []
    found = []
    for name in frame.columns:
        if name in kept or pandas.api.types.is_numeric_dtype(frame[name]):
            continue
        read = as_numbers(frame[name], commas=True)
        if read.commas and not read.odd:
            frame[name] = read.values
            found.append(str(name))
    return found


def column(frame: DataFrame, name: str, option: str, path: Path) -> Series:
    """A column of a table.

    Raises:
        TaskError: ``option: reason`` with the nearest column; for a column of lists, records or bytes.
    """
    place = place_of(frame, name, option, path)
    refuse_nested(path, frame, [name])
    return frame.iloc[:, place]


def place_of(frame: DataFrame, name: str, option: str, path: Path) -> int:
    """The number of a table's column.

    Raises:
        TaskError: ``option: reason`` with the nearest column.
    """
    names = [str(one) for one in frame.columns]
    if name not in names:
        raise TaskError(f"{option}: {path.name} has no column '{name}'; {describe_choices(name, names)}")
    return names.index(name)


def written(cells: Series) -> list[str]:
    """Cells as the words of a person: blanks and missing cells are empty, whole numbers have no decimal point."""
    import pandas

    present = cells.notna().tolist()
    if pandas.api.types.is_float_dtype(cells) and (cells.dropna() % 1 == 0).all():
        return [_whole(cell) if known else "" for cell, known in zip(cells.tolist(), present, strict=True)]
    return [str(cell).strip() if known else "" for cell, known in zip(cells.tolist(), present, strict=True)]


def _whole(value: float) -> str:
    return str(int(value)) if abs(value) < LONGEST_WHOLE else repr(value)


def require_rows(path: Path, count: int) -> None:
    """Raises:
    TaskError: where a file to be labelled holds none."""
    if not count:
        raise TaskError(f"{path} holds no rows")

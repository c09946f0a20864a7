"""Tables in the user's files, CSV or Parquet, read by pandas, with errors that name the option or the column."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from ..engine.registry import describe_choices
from .base import Missing, TaskError
from .locate import data_folders

if TYPE_CHECKING:
    from pandas import DataFrame, Series

PARQUET = frozenset((".parquet", ".pq"))
TABLES = PARQUET | {".csv", ".tsv"}
QUOTED = re.compile(r'"[^"]*("|$)')
DECIMAL_COMMA = re.compile(r"[+-]?(\d+|\d{1,3}(\.\d{3})+)(,\d+)?")


def is_table(path: Path) -> bool:
    """Whether a file is a table by its suffix."""
    return path.suffix.lower() in TABLES


def locate_file(name: str) -> Path | None:
    """A file at its own path, or in a folder where data is looked for; None when it is in neither."""
    given = Path(name).expanduser()
    places = [given] if given.is_absolute() else [given, *(folder / name for folder in data_folders())]
    return next((path for path in places if path.is_file()), None)


def missing_file(name: str, remedy: str = "give the path of a CSV or Parquet file") -> Missing:
    places = [name] if Path(name).expanduser().is_absolute() else [name, *(str(f / name) for f in data_folders())]
    return Missing(f"file {name}", tuple(places), remedy)


def read_frame(path: Path, as_text: Iterable[str] = ()) -> DataFrame:
    """A table; blank cells are NaN. Commas, semicolons or tabs separate, whichever the first line has most of.

    Args:
        as_text: columns whose cells are kept as they are written, e.g. labels, of which ``01`` is not ``1`` and ``None`` is
            no blank.

    Raises:
        TaskError: when it cannot be read.
    """
    import pandas

    try:
        if path.suffix.lower() in PARQUET:
            return pandas.read_parquet(path)
        wanted, separator = set(as_text), separator_of(path)
        frame = pandas.read_csv(
            path, sep=separator, encoding="utf-8-sig", dtype=dict.fromkeys(wanted, str), low_memory=False
        )
        words = [name for name in frame.columns if name in wanted]
        if words:
            cells = pandas.read_csv(
                path, sep=separator, encoding="utf-8-sig", dtype=str, keep_default_na=False, usecols=words
            )
            for name in words:
                frame[name] = cells[name].where(cells[name].str.strip() != "")
        return frame
    except ImportError:
        raise TaskError(f"{path} is a Parquet file; to read it: pip install pyarrow") from None
    except (OSError, ValueError) as error:  # pandas' and pyarrow's errors for damaged files are ValueErrors
        raise TaskError(f"{path} cannot be read as a table ({(str(error).splitlines() or ['empty'])[0]})") from None


def separator_of(path: Path) -> str:
    """What stands between the cells of a text file: commas, semicolons or tabs, by its first line without what is quoted."""
    with path.open(encoding="utf-8-sig") as file:
        first = QUOTED.sub("", file.readline())
    return max(",;\t", key=first.count)


def read_decimal_commas(path: Path, frame: DataFrame, kept: Iterable[str] = ()) -> list[str]:
    """Turns columns of numbers with a decimal comma into numbers, in place; their names.

    Where commas separate the cells, ``1,5`` may as well be a thousand and more, and nothing is done.

    Args:
        path: the file that the table was read from. kept: columns left as they are.
    """
    import pandas

    if path.suffix.lower() in PARQUET or separator_of(path) == ",":
        return []
    found = []
    for name in frame.columns:
        if name in kept or pandas.api.types.is_numeric_dtype(frame[name]):
            continue
        cells = frame[name].dropna().astype(str).str.strip()
        cells = cells[cells != ""]
        if cells.str.contains(",").any() and cells.map(lambda cell: bool(DECIMAL_COMMA.fullmatch(cell))).all():
            plain = cells.str.replace(".", "", regex=False).str.replace(",", ".", regex=False)
            frame[name] = pandas.to_numeric(plain).reindex(frame.index)
            found.append(str(name))
    return found


def column(frame: DataFrame, name: str, option: str, path: Path) -> Series:
    """A column of a table.

    Raises:
        TaskError: ``option: reason`` with the nearest column.
    """
    names = [str(one) for one in frame.columns]
    if name not in names:
        raise TaskError(f"{option}: {path.name} has no column '{name}'; {describe_choices(name, names)}")
    return frame.iloc[:, names.index(name)]


def written(cells: Series) -> list[str]:
    """Cells as the words of a person: blanks and missing cells are empty, whole numbers have no decimal point."""
    import pandas

    if pandas.api.types.is_float_dtype(cells) and (cells.dropna() % 1 == 0).all():
        cells = cells.astype("Int64")
    present = cells.notna().tolist()
    return [str(cell).strip() if known else "" for cell, known in zip(cells.tolist(), present, strict=True)]

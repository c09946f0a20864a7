"""What kind of data a program holds: a table, texts or images, and how its rows are called."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..tasks.files import durations_in_seconds
from ..tasks.image_listing import SUFFIXES
from ..tasks.quoting import safe

ODD = (list, tuple, dict, set, frozenset, bytes, bytearray, np.ndarray)  # cells that are no words
Kind = Literal["table", "texts", "images"]
ACCEPTED = (
    "data is a data frame, an array [n, columns], a list of texts, or a list of images (paths, PIL images, or arrays uint8 "
    "[h, w, 3])"
)


@dataclass(frozen=True)
class Data:
    """Rows of one kind.

    Attributes:
        kind: what they are. rows: a data frame whose columns are called by strings, or a list of texts, or of paths and images.
        index: pandas' names of the rows where the data had an index, else None.
    """

    kind: Kind
    rows: Any
    index: Any = None

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def things(self) -> str:
        return "rows" if self.kind == "table" else self.kind


def plain_numbers(data: Any) -> bool:
    """Whether data is an array or a frame of numbers without a gap, which can be computed with as they are."""
    import pandas

    if isinstance(data, pandas.DataFrame):
        numeric = all(pandas.api.types.is_numeric_dtype(dtype) for dtype in data.dtypes)
        return numeric and not bool(data.isna().to_numpy().any())
    if isinstance(data, list | tuple | pandas.Series) or (isinstance(data, np.ndarray) and data.ndim == 1):
        rows = list(data)
        if rows and (_kind_of(rows[:1]) is not None or _kind_of(rows) is not None):
            return False
        data = _as_array(rows) if rows and _level(rows) else np.asarray(data)
    if not isinstance(data, np.ndarray):
        return True  # a sparse matrix or the like, for scikit-learn to judge
    if data.dtype.kind == "O":
        words = any(isinstance(cell, str) for cell in data.reshape(-1).tolist())
        return not words and not bool(pandas.isna(data).any())
    if data.dtype.kind in "UT" or (data.ndim in (3, 4) and data.dtype == np.uint8):
        return False
    return data.dtype.kind not in "fc" or not bool(np.isnan(data).any())


def _level(rows: list[Any]) -> bool:
    """Whether rows are lists of one length."""
    return all(isinstance(row, list | tuple) and len(row) == len(rows[0]) for row in rows)


def data_of(data: Any) -> Data:
    """Data of any kind that there is.

    Raises:
        TypeError: for anything else. ValueError: for data without a row or a column, or with two columns of one name.
    """
    import pandas

    if isinstance(data, pandas.DataFrame):
        return _filled(Data("table", _named(data), data.index))
    if isinstance(data, np.ndarray) and data.ndim == 2 and data.dtype.kind in "biufOUT":
        columns = [f"x{number}" for number in range(data.shape[1])]
        return _filled(Data("table", pandas.DataFrame(data, columns=columns)))
    if isinstance(data, np.ndarray) and data.ndim in (3, 4) and data.dtype == np.uint8:
        return _filled(Data("images", list(data)))
    listed = isinstance(data, Sequence | pandas.Series | np.ndarray) and not isinstance(data, str | bytes)
    if not listed or (isinstance(data, np.ndarray) and data.ndim != 1):
        raise TypeError(f"{ACCEPTED}, not {_called(data)}")
    rows = list(data)
    if any(isinstance(row, str) for row in rows):
        rows = [row if isinstance(row, str | Path) or not _is_gap(row) else "" for row in rows]
    kind = _kind_of(rows)
    if kind == "texts":
        _refuse_stray_paths(rows)
    if kind is None and rows and all(isinstance(row, list | tuple) for row in rows):
        return data_of(_as_array(rows))
    if rows and kind is None:
        odd = next((place for place, row in enumerate(rows) if _kind_of([row]) is None), None)
        what = "rows of several kinds" if odd is None else f"row {odd} is {_called(rows[odd])}"
        raise TypeError(f"{ACCEPTED}; {what}")
    held = [Path(row) for row in rows] if kind == "images" and isinstance(rows[0], str) else rows
    return _filled(Data(kind or "texts", held, data.index if isinstance(data, pandas.Series) else None))


def _as_array(rows: list[Any]) -> np.ndarray:
    """A list of lists as an array of objects, in which no cell has become another.

    Raises:
        ValueError: for rows of different lengths.
    """
    short = next((place for place, row in enumerate(rows) if len(row) != len(rows[0])), None)
    if short is not None:
        raise ValueError(f"row {short} of the data has {len(rows[short])} cells, and row 0 has {len(rows[0])}")
    cells = np.empty((len(rows), len(rows[0])), dtype=object)
    for place, row in enumerate(rows):
        cells[place] = row
    return cells


def _kind_of(rows: list[Any]) -> Kind | None:
    if rows and all(isinstance(row, str) for row in rows):
        return "images" if all(Path(row).suffix.lower() in SUFFIXES for row in rows) else "texts"
    if rows and all(isinstance(row, Path) or hasattr(row, "convert") or _is_image(row) for row in rows):
        return "images"
    return None


def _is_gap(row: Any) -> bool:
    return row is None or (isinstance(row, float) and row != row) or type(row).__name__ in ("NAType", "NaTType")


def _refuse_stray_paths(rows: list[str]) -> None:
    """Raises:
    ValueError: naming a row that is no image's path among rows most of which are, so that names are not learnt from as texts."""
    paths = [Path(row).suffix.lower() in SUFFIXES for row in rows]
    if 2 * sum(paths) > len(rows):
        row = paths.index(False)
        raise ValueError(
            f"row {row} of the data, '{safe(rows[row])}', is no path of an image, as most rows are; leave it out"
        )


def _is_image(row: Any) -> bool:
    return isinstance(row, np.ndarray) and row.dtype == np.uint8 and row.ndim in (2, 3)


def _called(value: Any) -> str:
    shape = f" of {value.dtype} {list(value.shape)}" if isinstance(value, np.ndarray) else ""
    return f"{type(value).__name__}{shape}"


def _named(frame: Any) -> Any:
    """The frame with columns called by strings."""
    names = ["/".join(map(str, name)) if isinstance(name, tuple) else str(name) for name in frame.columns]
    twice = next((name for place, name in enumerate(names) if name in names[:place]), None)
    if twice is not None:
        raise ValueError(f"two columns of the data are called '{safe(twice)}'; give one of them another name")
    named = durations_in_seconds(frame.set_axis(names, axis=1))
    odd = [(name, kind) for name in names if (kind := _odd_kind(named[name]))]
    own = dict(zip(names, frame.columns, strict=True))
    if odd:
        held = ", ".join(f"'{safe(name)}' ({kind})" for name, kind in odd[:5])
        held += f" and {len(odd) - 5:,} more" if len(odd) > 5 else ""
        raise ValueError(
            f"the data: {'a column holds' if len(odd) == 1 else 'columns hold'} neither numbers nor words: {held}; write what "
            f"matters of them as columns of their own, or leave them out: data.drop(columns={[own[name] for name, _ in odd]!r})"
        )
    return named


def _odd_kind(cells: Any) -> str:
    """What a column holds that is no word, number, truth value or date; empty for others."""
    import pandas

    kinds = pandas.api.types
    plain = (kinds.is_numeric_dtype, kinds.is_bool_dtype, kinds.is_datetime64_any_dtype)
    if any(is_plain(cells.dtype) for is_plain in plain) or isinstance(cells.dtype, pandas.StringDtype):
        return ""
    held = (type(cell) for cell in cells if not _is_gap(cell))
    return next((kind.__name__ for kind in held if issubclass(kind, ODD)), "")


def _filled(data: Data) -> Data:
    if not len(data):
        raise ValueError("data is empty: it has no row")
    if data.kind == "table" and not data.rows.shape[1]:
        raise ValueError("data is empty: it has no column")
    if data.kind == "images":
        absent = next(
            (place for place, row in enumerate(data.rows) if isinstance(row, Path) and not row.is_file()), None
        )
        if absent is not None:
            raise ValueError(f"row {absent} of the data: there is no file {data.rows[absent]}")
    return data

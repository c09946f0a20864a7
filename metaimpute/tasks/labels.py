"""Labels of rows in memory, as arrays, lists and series hold them, and which of them are none."""

from __future__ import annotations

import numbers
from collections import Counter
from typing import Any

import numpy as np

from .doubts import may_mean_none
from .readings import is_float, same_number

PRINTED_GAPS = frozenset(
    ("", "nan", "NaN", "NaT", "<NA>")
)  # what numpy and pandas make of a gap in an array of strings


def missing(labels: np.ndarray, missing_label: Any) -> np.ndarray:
    """Where a label is none, ``[n]``: where pandas sees a gap (NaN, None, NaT, NA), and where it is ``missing_label``.

    Args:
        labels: of any type. Strings also count as none where they are blank or a gap or number turned into one, as
            ``numpy.array(["a", -1])`` does.
        missing_label: compared as a number where both are numbers, as a time where labels are times, else as written. None:
            only pandas' gaps are none, and every string is a label.
    """
    import pandas

    if labels.dtype.kind == "T":  # numpy's strings of any length
        labels = labels.astype(object)
    gaps = np.asarray(pandas.isna(labels), dtype=bool)
    if missing_label is None:
        return gaps
    named = None if pandas.isna(missing_label) else missing_label
    known = np.flatnonzero(~gaps)
    gaps[known] = [_is_none(label, named) for label in labels[known]]
    return gaps


def _is_none(label: Any, named: Any) -> bool:
    if isinstance(label, bytes):
        label = label.decode("utf-8", "replace")
    if isinstance(named, bytes):
        named = named.decode("utf-8", "replace")
    if isinstance(label, str) and label.strip() in PRINTED_GAPS:
        return True
    if named is None or isinstance(label, bool | np.bool_) != isinstance(named, bool | np.bool_):
        return isinstance(label, str) and isinstance(named, bool) and label.strip() == str(named)
    if isinstance(label, str) or isinstance(named, str):
        return _as_written(label, named)
    if isinstance(label, numbers.Number) != isinstance(named, numbers.Number):
        return False
    return _equal(label, named)


def _as_written(label: Any, named: Any) -> bool:
    import pandas

    if not isinstance(label, str | numbers.Number):  # a time, named by a string
        try:
            return _equal(pandas.Timestamp(label), pandas.Timestamp(named))
        except (ValueError, TypeError):
            return bool(str(label) == named)
    return same_number(str(label).strip(), str(named).strip())


def _equal(label: Any, named: Any) -> bool:
    try:
        return bool(label == named)
    except (ValueError, TypeError):  # of types that do not compare
        return False


def as_labels(y: Any) -> np.ndarray:
    """``y`` as an array ``[n]`` in which no label has become another: mixed lists, whole numbers with gaps between them and
    large ones stay objects, since floats, into which numpy turns them, hold 16 digits.

    Raises:
        ValueError: when it has more than one column.
    """
    from sklearn.utils import column_or_1d

    if isinstance(y, list | tuple):
        kept = _mixed(y)
    elif kept := _whole_with_gaps(y):
        y = _objects(y)
    column: np.ndarray = column_or_1d(np.asarray(y, dtype=object if kept else None), warn=True)
    return column


def _mixed(y: list[Any] | tuple[Any, ...]) -> bool:
    """Whether numpy may turn a label of a list into another."""
    whole = [
        int(label) for label in y if isinstance(label, numbers.Integral) and not isinstance(label, bool | np.bool_)
    ]
    return (
        any(label is None or isinstance(label, str) for label in y)
        or any(abs(label) >= 2**63 for label in whole)
        or (bool(whole) and any(isinstance(label, float | np.floating) for label in y))
    )


def _whole_with_gaps(y: Any) -> bool:
    """Whether pandas holds whole numbers, or categories that are, with gaps among them."""
    import pandas

    if isinstance(y, pandas.DataFrame) and y.shape[1] == 1:
        y = y.iloc[:, 0]
    dtype = getattr(y, "dtype", None)
    if isinstance(dtype, pandas.CategoricalDtype):
        dtype = dtype.categories.dtype
    extended = isinstance(y, pandas.Series | pandas.Index | pandas.api.extensions.ExtensionArray)
    return extended and pandas.api.types.is_integer_dtype(dtype) and bool(pandas.isna(y).any())


def _objects(y: Any) -> Any:
    """What :func:`_whole_with_gaps` found, in which nothing has been a float."""
    import pandas

    if isinstance(y, pandas.DataFrame):
        return _objects(y.iloc[:, 0]).reshape(-1, 1)
    if isinstance(y.dtype, pandas.CategoricalDtype):
        held = pandas.Categorical(y)
        names = held.categories.tolist()
        return np.array([names[code] if code >= 0 else None for code in held.codes], dtype=object)
    return np.asarray(y, dtype=object)


def ask_what_means_none(given: np.ndarray, rows: int) -> None:
    """Raises:
    ValueError: where most of all ``rows`` have one label that may mean "none", and two others are left."""
    counts = Counter(str(label).strip() for label in given.tolist())
    if len(counts) < 3:
        return
    label, count = counts.most_common(1)[0]
    if 2 * count > rows and may_mean_none(label):
        shown = label if is_float(label) else repr(label)
        raise ValueError(
            f"y holds {label!r} in {count:,} of {rows:,} rows; missing_label={shown} if it means that there is no label, "
            "missing_label=None if it is one"
        )

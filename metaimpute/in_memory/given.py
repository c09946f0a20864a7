"""Labels that a program gives for its rows: in order, by an index or in a dictionary, with gaps; mistakes are told in a line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..tasks.labels import as_labels, missing
from ..tasks.quoting import safe
from ..tasks.readings import same_number
from .data import Data

BY_ROW = "give one for each row, None where there is none, or a dictionary {row: label}"


@dataclass(frozen=True)
class Given:
    """Labels of all rows.

    Attributes:
        labels: ``[n]``, of any type. known: where there is one, ``[n]``.
    """

    labels: np.ndarray
    known: np.ndarray

    @property
    def held(self) -> np.ndarray:
        found: np.ndarray = self.labels[self.known]
        return found

    def words(self) -> list[str | None]:
        """Labels as a file holds them; None where there is none."""
        return [str(label) if here else None for label, here in zip(self.labels, self.known, strict=True)]

    def check_classes(self) -> None:
        """Raises:
        ValueError: for labels that are written alike, so that a file would make one class of them."""
        first: dict[str, Any] = {}
        for label in self.held:
            if not str(label).strip():
                raise ValueError(
                    f"labels hold {label!r}, which a file cannot tell from no label; call that class otherwise"
                )
            other = first.setdefault(str(label).strip(), label)
            if type(other) is type(label) and str(other) == str(label):
                continue
            if isinstance(label, str) != isinstance(other, str):
                raise ValueError(f"labels hold {other!r} and {label!r}, which are written alike; give them one type")
            if str(other) != str(label):
                raise ValueError(
                    f"labels hold '{safe(str(other))}' and '{safe(str(label))}', which differ only by blanks; strip them, "
                    "or call one class otherwise"
                )

    def names(self, found: Sequence[str]) -> dict[str, Any]:
        """The user's own labels by the names that a run has for them."""
        own = {str(label): label for label in self.held}
        return {
            name: own.get(name, next((label for text, label in own.items() if same_number(text.strip(), name)), name))
            for name in found
        }


def given_labels(labels: Any, data: Data, missing_label: Any, values: bool = False) -> Given:
    """Labels of every row of ``data``, and where there are any.

    Args:
        labels: one for each row; or those of some rows, by row, in a dictionary or a series with the index of the data.
        missing_label: means "none" as well. values: whether they are numbers to be predicted as values.

    Raises:
        ValueError: when they are not one for each row, none is there, or two of them are one but for blanks. TypeError: for one
            label alone.
    """
    found = _in_order(labels, data)
    if len(found) != len(data):
        raise ValueError(f"{len(data):,} {data.things} and {len(found):,} labels; {BY_ROW}")
    known = ~missing(found, missing_label)
    known &= np.array([not isinstance(label, str) or bool(label.strip()) for label in found], dtype=bool)
    if not known.any():
        raise ValueError(f"labels: none of the {len(data):,} {data.things} has one; a few of every class are needed")
    given = Given(found, known)
    if not values:
        given.check_classes()
    return given


def _in_order(labels: Any, data: Data) -> np.ndarray:
    import pandas

    if labels is None or isinstance(labels, str | bytes) or not hasattr(labels, "__len__"):
        raise TypeError(f"labels are a list, an array, a series or a dictionary, not {type(labels).__name__}; {BY_ROW}")
    if isinstance(labels, Mapping):
        return _by_row(dict(labels), data)
    if isinstance(labels, pandas.Series) and data.index is not None and not labels.index.equals(data.index):
        counted = labels.index.equals(pandas.RangeIndex(len(labels)))
        if not (counted and len(labels) == len(data)):
            return _by_index(labels, data)
    try:
        return as_labels(labels)
    except ValueError:
        raise ValueError(f"labels: one column is needed, not the shape {np.shape(labels)}") from None


def _by_row(labels: dict[Any, Any], data: Data) -> np.ndarray:
    """Labels of a dictionary in the order of the rows, by index where the data has one, else by place from 0."""
    import pandas

    names = pandas.RangeIndex(len(data)) if data.index is None else data.index
    if not names.is_unique:
        raise ValueError(
            "labels name rows by the data's index, in which a name stands twice; reset the index, or give a list"
        )
    places = names.get_indexer(pandas.Index(list(labels), dtype=object)) if labels else np.array([], dtype=int)
    if (places < 0).any():
        strange = list(labels)[int(np.argmax(places < 0))]
        how = "rows are numbered from 0" if data.index is None else "rows are called as in its index"
        raise ValueError(f"labels name row {safe(repr(strange))}, which the data does not have; {how}")
    column = np.full(len(data), None, dtype=object)
    for place, label in zip(places, labels.values(), strict=True):
        column[place] = label
    return as_labels(column.tolist())


def _by_index(labels: Any, data: Data) -> np.ndarray:
    """Labels of a series whose index names rows of the data in another order, or some of them."""
    if not labels.index.is_unique or not labels.index.isin(data.index).all():
        raise ValueError(
            "labels: their index names rows that the data's index does not, or one twice; give labels with the data's index, or "
            "labels.to_numpy() if they are in order"
        )
    return _by_row(dict(zip(labels.index, labels.tolist(), strict=True)), data)


def require_classes(given: Given) -> None:
    """Raises:
    ValueError: where every label is the same."""
    first = given.held[0]
    if all(str(label).strip() == str(first).strip() for label in given.held):
        raise ValueError(f"labels: there is only the class '{safe(str(first))}'; at least two classes are needed")

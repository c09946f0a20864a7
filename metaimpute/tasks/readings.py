"""What cells mean: which are numbers, and which mean that nothing is known."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import BeforeValidator

from .quoting import safe

if TYPE_CHECKING:
    from pandas import DataFrame, Series

NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
DECIMAL_COMMA = re.compile(r"[+-]?(\d+|\d{1,3}(\.\d{3})+)(,\d+)?", re.ASCII)
WITH_UNIT = re.compile(r"([+-]?)\s?([€$£¥]?)\s?([+-]?)\s?([\d.,'\u2019\u00a0\u202f]+)\s?([%€$£¥]?)", re.ASCII)
IN_BRACKETS = re.compile(r"\(\s?([€$£¥][^()+-]*|[^()+-]*[€$£¥])\s?\)")  # as accounts have what is below zero
THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2}(,\d{3})+(\.\d+)?", re.ASCII)
UNGROUPED = re.compile(r"[+-]?\d{4,}(\.\d*)?", re.ASCII)
GROUPED = re.compile(r"(?<=\d)['\u2019\u00a0\u202f](?=\d{3}(?!\d))")
CODE = re.compile(r"[+-]?0\d", re.ASCII)
MINUS = "\u2212"  # as typeset tables have it
LARGEST = float(np.finfo(np.float32).max)  # beyond it a square, and so a spread, is infinite or near it


def _word(value: Any) -> str:
    """A word as a recipe holds it; YAML makes a number of ``-1``."""
    if isinstance(value, str) or (isinstance(value, int | float) and not isinstance(value, bool)):
        return str(value).strip()
    raise ValueError("write it in quotes, e.g. ['null']")


Word = Annotated[str, BeforeValidator(_word)]
MissingValues = list[Word] | dict[str, list[Word]] | None


@dataclass(frozen=True)
class Numbers:
    """A column read as numbers.

    Attributes:
        values: float64, NaN where a cell is blank or odd. odd: rows whose cell is something else than a number to compute with.
        commas: whether the numbers have decimal commas. example: a cell with a unit or groups of digits, as ``$1,200``, and the
            number it was read as; None where all are plain.
    """

    values: Series
    odd: list[int]
    commas: bool = False
    example: tuple[str, float] | None = None

    @property
    def said(self) -> str:
        """How the example was read; empty where there is none."""
        return f"read '{safe(self.example[0])}' as {self.example[1]:.15g}" if self.example else ""


def as_numbers(cells: Series, *, commas: bool = False) -> Numbers:
    """The numbers in a column. Infinity is none, nor is what lies beyond float32.

    Args:
        commas: whether ``1,5`` may be a number; it is where it occurs and no fewer cells are numbers in that reading.
    """
    import pandas

    known = cells.notna().to_numpy()
    if pandas.api.types.is_numeric_dtype(cells):
        values = cells.astype("float64")
        usable = np.isfinite(values.to_numpy()) & (values.abs() <= LARGEST).to_numpy()
        return Numbers(values.where(usable), np.flatnonzero(known & ~usable).tolist())
    text = cells[known].map(_plain).astype(str).str.strip()
    text = text[text != ""].str.replace(MINUS, "-", regex=False)
    plain, cells_of_unit = text.str.fullmatch(NUMBER), None
    if not plain.all() and (bare := _without_unit(text, commas)) is not None:
        cells_of_unit, text = text[bare != text], bare
        plain = text.str.fullmatch(NUMBER)
    if commas:
        decimal = text.str.fullmatch(DECIMAL_COMMA)
        commas = bool((decimal & text.str.contains(",", regex=False)).any()) and int(decimal.sum()) >= int(plain.sum())
    if commas:
        plain, numbers = decimal, text.str.replace(".", "", regex=False).str.replace(",", ".", regex=False)
    else:
        numbers = text
    values = pandas.to_numeric(numbers[plain]).astype("float64")
    values = values[np.isfinite(values) & (values.abs() <= LARGEST)]
    odd = np.flatnonzero(cells.index.isin(text.index.difference(values.index))).tolist()
    example = None
    if cells_of_unit is not None and len(cells_of_unit):
        example = str(cells_of_unit.iloc[0]), float(values.get(cells_of_unit.index[0], float("nan")))
    return Numbers(values.reindex(cells.index), odd, commas, example)


def _without_unit(text: Series, commas: bool) -> Series | None:
    """Numbers as they are written for a person, without currency, percent sign and groups of digits, where most cells are such
    and some have a unit; the others are left as they are. None where most are not, or one is not where none has a unit, or it is
    open whether a comma stands before thousands.

    Args:
        commas: whether a comma may stand before decimals; then it never stands before thousands.
    """
    signed = text.str.replace(rf"^{IN_BRACKETS.pattern}$", r"-\1", regex=True)
    parts = signed.str.extract(f"^{WITH_UNIT.pattern}$", flags=re.ASCII).fillna("")
    unit = parts[1] + parts[4]
    bare = (parts[0] + parts[2] + parts[3]).str.replace(GROUPED, "", regex=True)
    units = unit[unit != ""].value_counts()
    usual = str(units.index[0]) if len(units) else ""
    is_one = (parts[3] != "") & unit.isin(["", usual]) & ((parts[0] == "") | (parts[2] == ""))
    plain, grouped = bare.str.fullmatch(NUMBER), bare.str.fullmatch(THOUSANDS)
    if commas and not plain[is_one].all():
        is_one &= bare.str.fullmatch(DECIMAL_COMMA)
        found = bare
    else:
        is_one &= plain | grouped
        if not usual and grouped[is_one].any() and bare[is_one].str.fullmatch(UNGROUPED).any():
            return None
        found = bare.str.replace(",", "", regex=False)
    if not (2 * int(is_one.sum()) > len(text) if usual else is_one.all()):
        return None
    return found.where(is_one, text)


def _plain(cell: Any) -> Any:
    """A truth value as the number it is in a column of truth values without gaps."""
    return int(cell) if isinstance(cell, bool | np.bool_) else cell


def is_number(label: str) -> bool:
    """Whether a label is written as a number that can be computed with."""
    return bool(NUMBER.fullmatch(label)) and abs(float(label)) <= LARGEST


def plain_number(label: str, commas: bool) -> str | None:
    """A label with a decimal point, or None where it is no number that can be computed with.

    Args:
        commas: whether decimals stand behind a comma.
    """
    if commas:
        if not DECIMAL_COMMA.fullmatch(label):
            return None
        label = label.replace(".", "").replace(",", ".")
    return label if is_number(label) else None


def same_number(word: str, other: str) -> bool:
    """Whether two words are the same, or the same number."""
    if word == other:
        return True
    return bool(NUMBER.fullmatch(word) and NUMBER.fullmatch(other)) and Decimal(word) == Decimal(other)


def one_spelling(labels: Sequence[str]) -> list[str]:
    """Labels of which ``1`` and ``1.0`` are one where all are numbers: the shortest spelling of each stands for it.

    A number with zeros before it is a code, of which ``007`` is not ``7``. Blank labels stay blank.
    """
    found = {label for label in labels if label}
    if not all(map(NUMBER.fullmatch, found)):
        return list(labels)
    spellings: dict[Decimal, list[str]] = {}
    for label in found:
        if not CODE.match(label):
            spellings.setdefault(Decimal(label), []).append(label)
    chosen = {
        label: min(group, key=lambda one: (len(one), one))
        for group in spellings.values()
        if len(group) > 1
        for label in group
    }
    return [chosen.get(label, label) for label in labels] if chosen else list(labels)


def class_of(word: str, names: Sequence[str]) -> str:
    """The class that a word is of, one written otherwise as :func:`one_spelling` has it; the word itself where it is of none."""
    if word in names or CODE.match(word):
        return word
    return next((name for name in names if same_number(name, word) and not CODE.match(name)), word)


def words_of(missing: MissingValues, column: str) -> list[str]:
    """The words that mean "none" in a column, beside blank."""
    if missing is None:
        return []
    named = missing.get(column, []) if isinstance(missing, Mapping) else missing
    return [_word(word) for word in named]


def blank_out(frame: DataFrame, missing: MissingValues, columns: Iterable[str] | None = None) -> None:
    """Blanks, in place, the cells that hold a word for "none"."""
    for name in list(frame.columns) if columns is None else columns:
        words = words_of(missing, str(name))
        if words:
            found = holds(frame[name], words)
            if found.any():
                frame[name] = frame[name].mask(found)


def holds(cells: Series, words: Sequence[str]) -> np.ndarray:
    """Where a cell is one of the words, or the same number as one of them, ``[n]``."""
    import pandas

    known: np.ndarray = cells.notna().to_numpy()
    numbers = [float(word) for word in words if is_float(word)]
    if pandas.api.types.is_numeric_dtype(cells):
        return known & np.isin(cells.astype("float64").to_numpy(), numbers)
    text = cells.astype(str).str.strip()
    found: np.ndarray = text.isin(words).to_numpy(dtype=bool, copy=True)
    if numbers:
        plain = text.str.fullmatch(NUMBER).fillna(False).to_numpy(dtype=bool)
        found[plain] |= np.isin(text[plain].astype(float).to_numpy(), numbers)
    found &= known
    return found


def is_float(word: str) -> bool:
    """Whether Python takes a word for a number, be it infinite or none at all."""
    try:
        float(word)
    except ValueError:
        return False
    return True

"""Columns that name or number the rows: they find a row again, and nothing is to be learnt from them."""

from __future__ import annotations

import math
import re
from collections.abc import Container
from typing import TYPE_CHECKING

import numpy as np

from .files import NA_WORDS, Table, written
from .quoting import safe

if TYPE_CHECKING:
    from pandas import Series

ALWAYS = ("id", "uid", "uuid")  # columns called so are names of rows, good ones or not
USUAL = (*ALWAYS, "key")
INDEX = re.compile(r"|unnamed: \d+(\.\d+)*|index|level_0|row|rownum|row_number|rowid")  # as a saved index is called
CHANCE, SMALL_CHANCE = 1e-6, 1e-2  # of different numbers being measured ones
FEWEST, GAPS = 10, 5
WIDEST = 2.0**62  # a range that whole numbers of 64 bits can be taken from each other in
WHOLE = re.compile(r"\d+[.,]0+", re.ASCII)
PIECES = 5  # files put together, each with its own numbers
NEARLY_ALL = 0.95


def trouble(table: Table, name: str, words_are_names: bool = False) -> str:
    """Why a column does not name the rows, by cell and line; empty where it does.

    Args:
        words_are_names: whether ``NA`` and the like are names; what the user takes for none is blank already.
    """
    seen: dict[str, int] = {}
    for row, cell in enumerate(written(table.frame[name])):
        if not cell:
            return f"{table.where([row])} has none"
        if cell in NA_WORDS and not words_are_names:
            return f"{table.where([row])} has '{safe(cell)}', a word for none (a name, if missing_values: [])"
        if cell in seen:
            return f"'{safe(cell)}' stands in {table.where([seen[cell], row])}"
        seen[cell] = row
    return ""


def called(name: str, known: Container[str]) -> str:
    """A row's name as it is known: ``3`` for the ``3.0`` or ``3,0`` that a spreadsheet or a table of floats makes of it."""
    return name if name in known or not WHOLE.fullmatch(name) else re.split("[.,]", name)[0]


def no_names(name: str, wrong: str) -> str:
    """The mistake in the option ``id``, given what :func:`trouble` found."""
    return f"id: column '{safe(name)}' does not name the rows: {wrong}; mend it, or leave id empty, and rows are numbered from 0"


def names_of(table: Table, name: str) -> tuple[list[str], list[str]]:
    """Names of new rows, by number where the column is not there or is called nothing; and what is to be said of them."""
    numbers = [str(row) for row in range(len(table.frame))]
    if not name:
        return numbers, []
    if name not in table.frame.columns:
        return numbers, [f"{table.path.name} has no column '{safe(name)}': its rows are numbered from 0"]
    wrong = trouble(table, name, words_are_names=True)
    return written(table.frame[name]), [f"column '{safe(name)}' does not name every row: {wrong}"] if wrong else []


def numbers_rows(cells: Series, name: str) -> bool:
    """Whether whole numbers count the rows, be it in another order, with gaps, or from the start again in a second file.

    Measurements repeat themselves: numbers drawn from a range of R are all different with a probability of about
    exp(-n^2 / 2R). Where that is below one in a million, different numbers were given out, not measured; where they are spread
    evenly over a range from 0 or 1, less will do, and their standing in order says the same.

    Args:
        cells: the known ones; their index is the order of the file.
    """
    import pandas

    kinds = pandas.api.types
    if kinds.is_bool_dtype(cells) or not kinds.is_numeric_dtype(cells) or len(cells) < 3:
        return False
    lowest = cells.min()
    if not float(cells.max()) - float(lowest) < WIDEST:
        return False
    # the difference first: float64 does not tell large numbers apart
    values = (cells - lowest).to_numpy(dtype="float64")
    if not np.isfinite(values).all() or (values % 1).any() or float(lowest) % 1:
        return False
    count, spread = len(values), float(values.max())
    steps = len(np.unique(values - cells.index.to_numpy()))
    if steps == 1 or (steps <= PIECES and count >= 10 * steps and spread >= count / (2 * steps)):
        return True
    different = len(np.unique(values))
    if INDEX.fullmatch(name.strip().lower()):
        return bool(lowest >= 0) and 2 * different > count  # rows drawn with replacement leave more than half of them
    if different < count:
        return False
    chance = _log_chance(count, spread + 1)
    if chance < math.log(CHANCE):
        return True
    if count < FEWEST or not 0 <= lowest <= 1 + GAPS * spread / count or not _even(values):
        return False
    return chance < math.log(SMALL_CHANCE) or bool((np.diff(values) > 0).all())


def _even(values: np.ndarray) -> bool:
    """Whether numbers from 0 on are spread evenly, by the test of Kolmogorov and Smirnov at 1%."""
    count = len(values)
    off = np.abs(np.sort(values) / values.max() - np.arange(count) / (count - 1))
    return float(off.max()) < 1.63 / math.sqrt(count)


def _log_chance(count: int, size: float) -> float:
    """Logarithm of the probability that ``count`` draws from ``size`` numbers are all different."""
    if count > size:
        return -math.inf
    return float(np.log1p(-np.arange(count) / size).sum())


def names_rows(words: Series, name: str) -> bool:
    """Whether words differ in every row, as names do; in all but a few where the column is called so."""
    return int(words.nunique()) >= (NEARLY_ALL if name.lower() in USUAL else 1) * len(words)


def are_texts(words: Series) -> bool:
    """Whether most cells hold several words, as titles and remarks do and codes do not."""
    return bool(words.str.contains(r"\S\s+\S", regex=True).mean() > 0.5)

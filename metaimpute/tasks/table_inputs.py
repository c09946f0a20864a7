"""Columns of a table as inputs of a network: numbers standardised, categories one-hot, gaps filled and marked.

Preprocessing is scikit-learn's, fitted to the training rows alone; it is kept with skops, which loads no code.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor

from .base import TaskError
from .files import column, written
from .own_data import quoted

if TYPE_CHECKING:
    from pandas import DataFrame, Series

MOST_CATEGORIES = 30  # per column; rarer ones share an input
DATE = re.compile(r"\d{4}-\d\d?-\d\d?|\d\d?[./]\d\d?[./]\d{2,4}")
TRUSTED = ["numpy.dtype"]  # beside what skops trusts of numpy and scikit-learn


@dataclass(frozen=True)
class TableInputs:
    """Fitted preprocessing of a table's rows.

    Attributes:
        numbers, categories: columns used. transformer: scikit-learn's, one part per column, named by it.
    """

    numbers: tuple[str, ...]
    categories: tuple[str, ...]
    transformer: Any

    @classmethod
    def fit(cls, frame: DataFrame, numbers: Iterable[str], categories: Iterable[str]) -> TableInputs:
        """Fills, scales and categories of the given rows."""
        from sklearn.compose import ColumnTransformer
        from sklearn.impute import SimpleImputer
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import OneHotEncoder, StandardScaler

        numbers, categories = tuple(numbers), tuple(categories)
        parts: list[tuple[str, Any, list[str]]] = []
        for name in numbers:
            filled = SimpleImputer(strategy="median", add_indicator=True, keep_empty_features=True)
            parts.append((name, make_pipeline(filled, StandardScaler()), [name]))
        for name in categories:
            one_hot = OneHotEncoder(
                handle_unknown="infrequent_if_exist", max_categories=MOST_CATEGORIES, sparse_output=False
            )
            parts.append((name, one_hot, [name]))
        made = ColumnTransformer(parts, sparse_threshold=0).fit(_prepared(frame, numbers, categories))
        return cls(numbers, categories, made)

    def __call__(self, frame: DataFrame) -> Tensor:
        """Rows as float32 ``[n, width]``."""
        made = self.transformer.transform(_prepared(frame, self.numbers, self.categories))
        return torch.tensor(np.asarray(made), dtype=torch.float32)

    def doubts(self, frame: DataFrame) -> Iterator[str]:
        """What in other rows was not so in those it is fitted to, a line per column.

        Raises:
            TaskError: naming a column of numbers without any number.
        """
        where = Path("the table")
        ready = _prepared(frame, self.numbers, self.categories)
        for name in self.numbers:
            cells = column(frame, name, "columns", where)
            wrong = cells[cells.notna().to_numpy() & ready[name].isna().to_numpy()]
            if not len(wrong):
                continue
            words = quoted(list(dict.fromkeys(written(wrong))))
            if ready[name].isna().all():
                raise TaskError(f"column '{name}' holds numbers in training, and here no cell is one: {words}")
            yield f"column '{name}': {len(wrong):,} of {len(cells):,} cells are no number and count as blank: {words}"
        for name in self.categories:
            known = set(self.transformer.named_transformers_[name].categories_[0].tolist())
            strange = [word for word in ready[name] if word not in known]
            if strange:
                words = quoted(list(dict.fromkeys(strange)))
                yield f"column '{name}': {len(strange):,} of {len(ready):,} cells hold what training has never seen: {words}"

    @property
    def width(self) -> int:
        return max(part.stop for part in self.transformer.output_indices_.values())

    @property
    def column_of(self) -> Tensor:
        """Which column each input comes from, ``[width]``."""
        found = torch.zeros(self.width, dtype=torch.long)
        for number, name in enumerate((*self.numbers, *self.categories)):
            found[self.transformer.output_indices_[name]] = number
        return found

    @property
    def measured(self) -> Tensor:
        """1 where an input is a number of the table, 0 where it marks a category or a gap, ``[width]``."""
        found = torch.zeros(self.width)
        found[[self.transformer.output_indices_[name].start for name in self.numbers]] = 1.0
        return found

    def save(self, path: Path) -> None:
        from skops.io import dump

        dump(self.transformer, path)

    @classmethod
    def restore(cls, path: Path, numbers: Iterable[str], categories: Iterable[str]) -> TableInputs:
        """Preprocessing that :meth:`save` kept.

        Raises:
            TaskError: when the file holds anything but preprocessing.
        """
        from skops.io import get_untrusted_types, load

        try:
            strange = sorted(set(get_untrusted_types(file=path)) - set(TRUSTED))
            if strange:
                raise TaskError(f"{path} holds types that are not trusted: {', '.join(strange)}")
            found = cls(tuple(numbers), tuple(categories), load(path, trusted=TRUSTED))
            found._check()
            return found
        except (OSError, ValueError, LookupError, TypeError, AttributeError, BadZipFile) as error:
            raise error if isinstance(error, TaskError) else TaskError(f"{path} cannot be read ({error})") from None

    def _check(self) -> None:
        """Raises:
        ValueError, LookupError, AttributeError: when the transformer is not one that was fitted to these columns."""
        if list(self.transformer.feature_names_in_) != [*self.numbers, *self.categories]:
            raise ValueError("it was fitted to other columns")
        if len(self.column_of) != len(self.measured):
            raise ValueError("its columns have no place")
        for name in self.categories:
            _ = self.transformer.named_transformers_[name].categories_[0]


def table_view(
    rows: Tensor, generator: torch.Generator, *, noise: float, swap: float, column_of: Tensor, measured: Tensor
) -> Tensor:
    """A random view of rows ``[n, width]``: cells of other rows in the batch, then noise on the numbers.

    Follows SCARF (Bahri et al., ICLR 2022) and VIME (Yoon et al., NeurIPS 2020), whose cells come from the whole table.

    Args:
        noise: standard deviation, of standardised inputs. swap: share of the cells that are another row's.
        column_of: the column of each input ``[width]``; a column is swapped whole. measured: 1 for inputs that are numbers.
    """
    if swap:
        count = int(column_of.max()) + 1
        donors = torch.randint(len(rows), (len(rows), count), generator=generator)[:, column_of]
        swapped = (torch.rand(len(rows), count, generator=generator) < swap)[:, column_of]
        rows = torch.where(swapped, rows.gather(0, donors), rows)
    return rows + noise * torch.randn(rows.shape, generator=generator) * measured


def _prepared(frame: DataFrame, numbers: Iterable[str], categories: Iterable[str]) -> DataFrame:
    """The columns used: numbers as floats, categories as words, of which a blank is one."""
    import pandas

    found: dict[str, Any] = {}
    where = Path("the table")
    for name in numbers:
        cells = pandas.to_numeric(column(frame, name, "columns", where), errors="coerce")
        found[name] = cells.astype("float64").replace([np.inf, -np.inf], np.nan).to_numpy()
    for name in categories:
        found[name] = np.array(written(column(frame, name, "columns", where)), dtype=object)
    return pandas.DataFrame(found, index=frame.index)


def sort_columns(frame: DataFrame, names: Iterable[str]) -> tuple[list[str], list[str], list[str]]:
    """Columns that are numbers, columns that are categories, and a line for each that is left out with its reason."""
    import pandas

    numbers: list[str] = []
    categories: list[str] = []
    left: list[str] = []
    for name in names:
        cells = frame[name].dropna()
        words = None if pandas.api.types.is_numeric_dtype(cells) else cells.astype(str)
        reason = _unusable(cells, words, len(frame))
        if reason:
            left.append(f"left out column '{name}': {reason}")
        elif words is None:
            numbers.append(name)
        else:
            categories.append(name)
    return numbers, categories, left


def _unusable(cells: Series, words: Series | None, rows: int) -> str | None:
    """Why a column is no input, given its cells that are not blank; ``words`` are they as text, None for numbers."""
    import pandas

    if cells.nunique() <= 1 and len(cells) in (0, rows):
        return "it is empty" if not len(cells) else "it is the same in every row"
    if words is None:
        whole = pandas.api.types.is_integer_dtype(cells) and not pandas.api.types.is_bool_dtype(cells)
        counts = whole and len(cells) > 2 and (cells - cells.index).nunique() == 1
        return "it numbers the rows; name it as id" if counts else None
    if pandas.api.types.is_datetime64_any_dtype(cells) or words.map(lambda word: bool(DATE.match(word))).mean() > 0.9:
        return "it holds dates; give what matters of them as numbers, e.g. the year"
    if len(words) > MOST_CATEGORIES and words.nunique() == len(words):
        return "its words differ in every row, as those of an id do"
    return None

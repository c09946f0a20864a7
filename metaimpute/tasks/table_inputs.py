"""Columns of a table as inputs of a network: numbers standardised, categories one-hot, dates as several numbers, gaps filled
and marked; beside them columns of many words by their spelling, for systems that are not the network.

Preprocessing is scikit-learn's, fitted to the training rows alone; it is kept with skops, which loads no code.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor

from .base import TaskError
from .date_inputs import DateColumn, date_column
from .doubts import counted
from .files import column, written
from .quoting import quoted, safe
from .row_names import ALWAYS, are_texts, names_rows, numbers_rows
from .spelled_inputs import MOST_CATEGORIES, is_spelling, many_words, spelling

if TYPE_CHECKING:
    from pandas import DataFrame, Series

DIFFERENT = "its words differ in every row, as those of an id do"
FARTHEST = 1e6  # standard deviations from the mean; of n training rows none is farther than the root of n
TRUSTED = ["numpy.dtype"]  # beside what skops trusts of numpy and scikit-learn


@dataclass(frozen=True)
class TableInputs:
    """Fitted preprocessing of a table's rows.

    Attributes:
        numbers, categories, dates: columns that are inputs of the network. spelled: those of many words, which are inputs by
            their spelling beside them. transformer: scikit-learn's, one part for each column in this order.
    """

    numbers: tuple[str, ...]
    categories: tuple[str, ...]
    transformer: Any
    dates: tuple[DateColumn, ...] = ()
    spelled: tuple[str, ...] = ()

    @classmethod
    def fit(
        cls,
        frame: DataFrame,
        numbers: Iterable[str],
        categories: Iterable[str],
        dates: Iterable[DateColumn] = (),
        texts: Iterable[str] = (),
    ) -> TableInputs:
        """Fills, scales, categories and spellings of the given rows; ``texts`` are inputs by their spelling alone."""
        from sklearn.compose import ColumnTransformer
        from sklearn.frozen import FrozenEstimator
        from sklearn.impute import SimpleImputer
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import OneHotEncoder, StandardScaler

        def filled() -> Any:
            return SimpleImputer(strategy="median", add_indicator=True, keep_empty_features=True)

        numbers, categories, dates, texts = tuple(numbers), tuple(categories), tuple(dates), tuple(texts)
        ready = _prepared(frame, numbers, (*categories, *texts), dates)
        spelled = (*(name for name in categories if many_words(ready[name].tolist())), *texts)
        parts: list[tuple[Any, str | list[str]]] = []
        weights = dict[str, float]()
        for name in numbers:
            parts.append((make_pipeline(filled(), StandardScaler()), [name]))
        for name in categories:
            one_hot = OneHotEncoder(
                handle_unknown="infrequent_if_exist", max_categories=MOST_CATEGORIES, sparse_output=False
            )
            parts.append((one_hot, [name]))
        for date in dates:
            parts.append((make_pipeline(filled(), StandardScaler()), date.inputs))
        for name in spelled:
            part, weights[_called(len(parts))] = spelling(ready[name].tolist())
            parts.append((FrozenEstimator(part), name))
        named = [(_called(number), part, names) for number, (part, names) in enumerate(parts)]
        made = ColumnTransformer(named, sparse_threshold=0, transformer_weights=weights or None).fit(ready)
        return cls(numbers, categories, made, dates, spelled)

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns that are inputs of the network."""
        return (*self.numbers, *self.categories, *(date.name for date in self.dates))

    @property
    def texts(self) -> tuple[str, ...]:
        """Columns that are inputs by their spelling alone."""
        return tuple(name for name in self.spelled if name not in self.categories)

    def __call__(self, frame: DataFrame) -> Tensor:
        """Rows as float32 ``[n, width + those by spelling]``; numbers too far from those of the training rows count as blank."""
        words = (*self.categories, *self.texts)
        made = self.transformer.transform(self._near(_prepared(frame, self.numbers, words, self.dates)))
        return torch.tensor(np.asarray(made), dtype=torch.float32)

    def plain(self, rows: Tensor) -> Tensor:
        """Inputs of the network, ``[n, width]``, of rows that a call has made."""
        return rows[:, : self.width]

    def by_spelling(self, rows: Tensor) -> Tensor:
        """The same rows with the columns of many words by their spelling, and not by an input for each frequent word."""
        replaced = torch.tensor([self.columns.index(name) for name in self.spelled if name in self.categories])
        kept = ~torch.isin(self.column_of, replaced)
        return torch.cat([self.plain(rows)[:, kept], rows[:, self.width :]], 1)

    def _part(self, name: str) -> tuple[Any, slice]:
        """The fitted transformer of a column, and where its inputs lie; parts stand in the order of the columns."""
        called, part, _ = self.transformer.transformers_[self.columns.index(name)]
        return part, self.transformer.output_indices_[called]

    def _near(self, ready: DataFrame) -> DataFrame:
        """Prepared rows without the numbers that lie so far off that a network's arithmetic would overflow."""
        for name in self.numbers:
            scaler = self._part(name)[0].steps[-1][1]
            far = (ready[name] - scaler.mean_[0]).abs() / scaler.scale_[0] > FARTHEST
            if far.any():
                ready[name] = ready[name].mask(far)
        return ready

    def far(self, frame: DataFrame) -> Iterator[str]:
        """A line for each column of numbers that lie too far from those it is fitted to."""
        ready = _prepared(frame, self.numbers, ())
        kept = self._near(ready.copy())
        for name in self.numbers:
            far = ready[name].notna() & kept[name].isna()
            if far.any():
                words = quoted(list(dict.fromkeys(written(ready[name][far]))))
                yield f"column '{safe(name)}': {counted(int(far.sum()), len(far))} lie too far off and count as blank: {words}"

    def doubts(self, frame: DataFrame) -> Iterator[str]:
        """What in other rows was not so in those it is fitted to, a line per column."""
        yield from self.far(frame)
        ready = _prepared(frame, (), self.categories)
        for name in self.categories:
            known = self.words(name)
            strange = [word for word in ready[name] if word not in known]
            if strange:
                words = quoted(list(dict.fromkeys(strange)))
                yield f"column '{safe(name)}': {counted(len(strange), len(ready))} hold what training has never seen: {words}"

        for date in self.dates:
            cells = column(frame, date.name, "columns", Path("the table"))
            odd = cells.notna().to_numpy() & np.isnan(date.days(cells))
            if odd.any():
                words = quoted(list(dict.fromkeys(written(cells[odd]))))
                yield f"column '{safe(date.name)}': {counted(int(odd.sum()), len(cells))} are no date and count as blank: {words}"

    def words(self, name: str) -> set[str]:
        """The words of a column that it is fitted to."""
        return set(self._part(name)[0].categories_[0].tolist())

    @property
    def width(self) -> int:
        """How many inputs the network has."""
        return max(int(self._part(name)[1].stop) for name in self.columns)

    @property
    def column_of(self) -> Tensor:
        """Which column each input comes from, ``[width]``."""
        found = torch.zeros(self.width, dtype=torch.long)
        for number, name in enumerate(self.columns):
            found[self._part(name)[1]] = number
        return found

    @property
    def measured(self) -> Tensor:
        """1 where an input is a number of the table, 0 where it marks a category or a gap, ``[width]``."""
        found = torch.zeros(self.width)
        found[[self._part(name)[1].start for name in self.numbers]] = 1.0
        return found

    def save(self, path: Path) -> None:
        from skops.io import dump

        dump(self.transformer, path)

    @classmethod
    def restore(
        cls,
        path: Path,
        numbers: Iterable[str],
        categories: Iterable[str],
        dates: Iterable[DateColumn] = (),
        spelled: Iterable[str] = (),
    ) -> TableInputs:
        """Preprocessing that :meth:`save` kept.

        Raises:
            TaskError: when the file holds anything but preprocessing.
        """
        from skops.io import get_untrusted_types, load

        try:
            strange = sorted(set(get_untrusted_types(file=path)) - set(TRUSTED))
            if strange:
                raise TaskError(f"{path} holds types that are not trusted: {', '.join(strange)}")
            found = cls(tuple(numbers), tuple(categories), load(path, trusted=TRUSTED), tuple(dates), tuple(spelled))
            found._check()
            return found
        except (OSError, ValueError, LookupError, TypeError, AttributeError, BadZipFile) as error:
            raise error if isinstance(error, TaskError) else TaskError(f"{path} cannot be read ({error})") from None

    def _check(self) -> None:
        """Raises:
        ValueError, LookupError, AttributeError: when the transformer is not one that was fitted to these columns."""
        dates = (name for date in self.dates for name in date.inputs)
        names = [*self.numbers, *self.categories, *self.texts, *dates]
        if list(self.transformer.feature_names_in_) != names:
            raise ValueError("it was fitted to other columns")
        if len(self.column_of) != len(self.measured):
            raise ValueError("its columns have no place")
        for _, part, _ in self.transformer.transformers_[len(self.columns) :][: len(self.spelled)]:
            if not is_spelling(getattr(part, "estimator", None)):
                raise ValueError("it has no spelling of words")
        for name in self.categories:
            self.words(name)


def _called(number: int) -> str:
    """A part of the transformer: scikit-learn takes 'remainder' and 'a__b', as columns may be called, for words of its own."""
    return f"column {number}"


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
        donors = torch.randint(len(rows), (len(rows), count), generator=generator, device="cpu")[:, column_of]
        swapped = (torch.rand(len(rows), count, generator=generator, device="cpu") < swap)[:, column_of]
        rows = torch.where(swapped, rows.gather(0, donors), rows)
    return rows + noise * torch.randn(rows.shape, generator=generator, device="cpu") * measured


def _prepared(
    frame: DataFrame, numbers: Iterable[str], categories: Iterable[str], dates: Iterable[DateColumn] = ()
) -> DataFrame:
    """The columns used: numbers as floats, categories as words, of which a blank is one, dates as several numbers."""
    import pandas

    found: dict[str, Any] = {}
    where = Path("the table")
    for name in numbers:
        cells = pandas.to_numeric(column(frame, name, "columns", where), errors="coerce")
        found[name] = cells.astype("float64").replace([np.inf, -np.inf], np.nan).to_numpy()
    for name in categories:
        found[name] = np.array(written(column(frame, name, "columns", where)), dtype=object)
    for date in dates:
        found |= date(column(frame, date.name, "columns", where))
    return pandas.DataFrame(found, index=frame.index)


def sort_columns(
    frame: DataFrame, names: Iterable[str], keep: Iterable[str] = (), words: Iterable[str] = ()
) -> tuple[list[str], list[str], list[DateColumn], list[str], list[str]]:
    """Columns that are numbers, that are categories, that are dates, that are texts, and a line for each that is left out with
    its reason.

    Args:
        keep: columns that are inputs whatever they look like, as long as they hold anything. words: columns that are categories
            although they look like dates.
    """
    import pandas

    numbers: list[str] = []
    categories: list[str] = []
    dates: list[DateColumn] = []
    texts: list[str] = []
    left: list[str] = []
    for name in names:
        cells = frame[name].dropna()
        text = None if pandas.api.types.is_numeric_dtype(cells) else cells.astype(str)
        reason = _unusable(cells, text, len(frame), name, name in words)
        if reason == DIFFERENT and name not in keep and text is not None and are_texts(text):
            texts.append(name)
        elif reason and not (name in keep and len(cells)):
            left.append(f"left out column '{safe(name)}': {reason}")
        elif name not in words and (date := date_column(cells, name)) is not None:
            dates.append(date)
        elif text is None:
            numbers.append(name)
        else:
            categories.append(name)
    return numbers, categories, dates, texts, left


def _unusable(cells: Series, words: Series | None, rows: int, name: str, no_dates: bool) -> str | None:
    """Why a column is no input, given its cells that are not blank; ``words`` are they as text, None for numbers."""

    learn = f"keep: {json.dumps([name], ensure_ascii=False)} to learn from it"
    if cells.nunique() <= 1 and len(cells) in (0, rows):
        return "it is empty" if not len(cells) else "it is the same in every row"
    if name.strip().lower() in ALWAYS:
        return f"it is called as names of rows are; name it as id, or {learn}"
    if words is None:
        if cells.astype("float64").nunique() == 1 < cells.nunique():
            return "its numbers differ only beyond 16 digits, as those of an id may"
        if numbers_rows(cells, name):
            return f"it numbers the rows, as a saved index does; name it as id, or {learn}"
        return None
    if not no_dates and date_column(cells, name) is not None:
        return None
    if len(words) > MOST_CATEGORIES and names_rows(words, name):
        return DIFFERENT
    return None

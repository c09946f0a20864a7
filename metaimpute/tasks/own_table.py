"""One's own table: a target column, blank where a row has no label, and every other column as input."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from ..batches import ViewKind
from ..batches.outputs import Classes, Quantities
from ..ranges import NonNegative, Share
from .alike import alike_said
from .base import Missing, Pool, TaskData, TaskError, register_task
from .column_kinds import as_trained
from .date_inputs import DateColumn
from .doubts import words_for_none
from .files import column, missing_file, read_table, require_rows, written
from .locate import locate_file
from .own_data import Content, OwnData, numbered, ordered
from .own_rows import Rows, read_rows
from .quoting import how_many
from .readings import MissingValues, blank_out, one_spelling
from .row_names import names_of
from .spelled_inputs import SPELLING
from .table_inputs import TableInputs, sort_columns, table_view
from .targets import holds_values

if TYPE_CHECKING:
    from pandas import DataFrame

TRUTH = {"", "True", "False"}
PREPROCESSING = "inputs.skops"


@register_task("own_table")
@dataclass
class OwnTable(OwnData):
    """Rows of one's own CSV or Parquet file; a blank target is a row without label.

    Inputs are all columns but the target, ``id`` and ``ignore``: numbers are standardised, words one-hot, dates become a day and
    places in the year, week and day, gaps are filled and marked. Columns of many words, and texts, are inputs of other systems
    than the network as well, by their spelling. Constants and numbers of rows are left out with a warning.
    Where a few cells decide whether a column holds numbers or words, the user is asked.

    Args:
        file: a path, or a name looked for where data is looked for. test: another such file with test rows.
        target: column to predict. id: column with a name for each row; empty: row numbers from 0. ignore: columns left out.
        words: columns that are words although cells are numbers or dates, e.g. codes. numbers: columns that are numbers although
            a Parquet file or data frame has them as words. keep: inputs whatever they look like, e.g. numbers that also number
            the rows.
        missing_values: words for "none" beside blank, ``["?"]`` in every column or ``{column: ["?"]}``; ``[]``: there are none.
        kind: classes or values; auto takes a target of many different numbers, or with decimals, as values.
        labels: at most so many of the labels are trained on, drawn by seed; 0 for all.
        validation: labelled rows kept for choosing settings.
        test_share: share of the labelled rows held out as test set, where there is no test file.
        corrections: a file of labels, ``id`` and ``label``, that go before those of the table.
        new_classes: classes that corrections alone name.
        weak, strong: standard deviation of the noise on numbers, as a share of the column's own.
        swap: share of the cells of a strong view that are another row's.
    """

    input_kind = "vector"
    things = "rows"
    label_option = "target"
    to_unlabel = "leave some labels blank, or name the word that means none in missing_values"

    file: str = ""
    target: str = "target"
    test: str = ""
    id: str = ""
    ignore: list[str] = field(default_factory=list)
    words: list[str] = field(default_factory=list)
    numbers: list[str] = field(default_factory=list)
    keep: list[str] = field(default_factory=list)
    missing_values: MissingValues = None
    kind: Literal["auto", "classes", "values"] = "auto"
    weak: NonNegative = 0.05
    strong: NonNegative = 0.1
    swap: Share = 0.2
    _read: Rows | None = field(default=None, init=False, repr=False)
    _said: list[str] = field(default_factory=list, init=False, repr=False)
    _inputs: TableInputs | None = field(default=None, init=False, repr=False)
    _output: Quantities | None = field(default=None, init=False, repr=False)
    _given: dict[int, float] = field(default_factory=dict, init=False, repr=False)

    @property
    def input_shape(self) -> tuple[int, ...]:  # type: ignore[override]  # known once the columns are
        return (1 if self._inputs is None else self._inputs.width,)

    @property
    def output(self) -> Classes | Quantities:
        """Classes, or the target's value, standardised once :meth:`load` has seen the training rows."""
        names = self.label_names
        return self._output or Classes(max(len(names or ()), 2))

    def check(self) -> None:
        if not self.file:
            raise TaskError("file: name a CSV or Parquet file")
        super().check()

    def missing(self) -> list[Missing]:
        return [missing_file(name) for name in (self.file, self.test) if name and locate_file(name) is None]

    def _rows(self) -> Rows:
        """All rows of the files, which are read once."""
        if self._read is None:
            options = {"ignore": self.ignore, "words": self.words, "numbers": self.numbers, "keep": self.keep}
            files = [name for name in (self.file, self.test) if name]
            self._read = read_rows(files, self.target, self.id, options, self.missing_values)
        return self._read

    def _labels(self) -> list[str]:
        """Targets of all rows as words, blank where there is none."""
        return one_spelling(written(self._rows().frame[self.target]))

    def listed_labels(self) -> list[str]:
        labels, rows = self._labels(), self._rows()
        values, said = holds_values(labels, self.kind, self.target, rows.where, rows.commas)
        self._said = [*said, *words_for_none(labels, "target", self.target, self.missing_values)]
        if values:
            self._output = Quantities(1)
            return [self.target]
        self._said += alike_said(rows.frame[self.target].dropna().astype(str))
        return ordered(labels)

    def gather(self) -> Content:
        frame, before = self._rows().frame, self._rows().before
        labels = self._labels()
        if isinstance(self.output, Classes):
            targets = numbered(labels, self.label_names or [])
        else:
            values = [float(label) if label else float("nan") for label in labels]
            targets = torch.tensor(values, dtype=torch.float64)[:, None]  # float32 once standardised
        tested = torch.arange(before, len(frame)) if self.test else None
        if self.test and not all(labels[before:]):
            raise TaskError(f"test: {how_many(labels[before:].count(''), 'row')} of {self.test} without a target")
        used = self._columns(frame)
        if not used:
            raise TaskError(f"file: {self.file} has no column beside '{self.target}' to learn from")
        names = written(frame[self.id]) if self.id else [str(row) for row in range(len(frame))]
        pool = Pool(torch.arange(len(frame))[:, None], targets, torch.arange(len(frame)))
        warnings = (*self._rows().said, *self._said, *_copies(frame, used, labels))
        return Content(pool, names, row_keys(frame[used]), tested, Path(self.file).name, warnings)

    def _columns(self, frame: DataFrame) -> list[str]:
        return [name for name in frame.columns if name not in (self.target, self.id or None, *self.ignore)]

    def finish(self, data: TaskData) -> TaskData:
        """Inputs and values as fitted to the training rows."""
        frame = self._rows().frame
        rows = torch.cat([data.labelled.ids, data.unlabelled.ids]).unique()
        training = frame.iloc[rows.numpy()]
        numbers, categories, dates, texts, left = sort_columns(training, self._columns(frame), self.keep, self.words)
        if not numbers and not categories and not dates:
            raise TaskError(f"file: {self.file} has no column that can be an input ({'; '.join(left)})")
        self._inputs = TableInputs.fit(training, numbers, categories, dates, texts)
        if self._output is not None:
            known = data.labelled.targets
            assert known is not None
            self._given = {
                row: value
                for pool in (data.labelled, data.validation, data.test)
                if pool.targets is not None
                for row, value in zip(pool.ids.tolist(), pool.targets[:, 0].tolist(), strict=True)
            }
            std = known.std(0, correction=0)
            std = torch.where(std > 0, std, torch.ones_like(std))
            self._output = Quantities(1, mean=tuple(known.mean(0).tolist()), std=tuple(std.tolist()))
        whole = self._inputs(frame)
        others = frame.drop(index=training.index)
        left += [f"among test and validation rows: {line}" for line in self._inputs.far(others)]

        def seen(pool: Pool) -> Pool:
            assert pool.targets is not None
            targets = pool.targets if self._output is None else self._output.standardized(pool.targets)
            return Pool(whole[pool.ids], targets.float() if targets.is_floating_point() else targets, pool.ids)

        return dataclasses.replace(
            data,
            labelled=seen(data.labelled),
            unlabelled=seen(data.unlabelled),
            validation=seen(data.validation),
            test=seen(data.test),
            warnings=(*left, *data.warnings),
        )

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns that are inputs, as far as :meth:`load` has seen the table."""
        return () if self._inputs is None else (*self._inputs.columns, *self._inputs.texts)

    def cells(self, rows: Sequence[int]) -> tuple[list[str], list[list[str]]]:
        """Columns beside target and id, and their cells as words in some rows, by their numbers in the files."""
        frame = self._rows().frame
        columns = [name for name in frame.columns if name not in (self.target, self.id or None)]
        cells = [written(frame[name].iloc[list(rows)]) for name in columns]
        return columns, [list(row) for row in zip(*cells, strict=True)] if columns else [[] for _ in rows]

    def keys(self, rows: Sequence[int]) -> Sequence[Hashable]:
        """Numbers that are equal where all inputs of rows are, as the file has them."""
        return row_keys(self._rows().frame[list(self.columns)].iloc[list(rows)])

    def compared(self, content: Content) -> Sequence[Hashable]:
        frame = self._rows().frame
        return row_keys(frame[list(self.columns)])

    @property
    def decimal_commas(self) -> bool:
        return self._rows().of_target

    def given_values(self, pool: Pool) -> list[str] | None:
        return None if self._output is None else [f"{self._given[row]:.15g}" for row in pool.ids.tolist()]

    def view(self, raw: Tensor, kind: ViewKind, generator: torch.Generator) -> Tensor:
        """weak: noise on the numbers. strong: cells of other rows in the batch, then more noise."""
        if self._inputs is None:
            raise TaskError("views of a table need load() first")
        inputs = self._inputs
        raw = inputs.plain(raw)
        if kind == "none":
            return raw
        noise, swap = (self.weak, 0.0) if kind == "weak" else (self.strong, self.swap)
        return table_view(raw, generator, noise=noise, swap=swap, column_of=inputs.column_of, measured=inputs.measured)

    @property
    def more_forms(self) -> tuple[str, ...]:
        return (SPELLING,) if self._inputs is None or self._inputs.spelled else ()

    def in_form(self, raw: Tensor, name: str) -> Tensor:
        assert self._inputs is not None and name == SPELLING
        return self._inputs.by_spelling(raw)

    def read(self, path: Path) -> tuple[list[str], Tensor]:
        """Rows of a CSV or Parquet file with the input columns."""
        if self._inputs is None:
            raise TaskError("a table is read as training has seen it: load() or restore() first")
        inputs = self._inputs
        codes = [*inputs.texts]
        codes += [name for name in inputs.categories if not inputs.words(name) <= TRUTH]
        table = read_table(path, (self.id,), codes)
        require_rows(path, len(table.frame))
        blank_out(table.frame, self.missing_values)
        names, self.read_warnings = names_of(table, self.id)
        for name in (*self.columns, *inputs.texts):
            column(table.frame, name, "columns", path)
        self.read_warnings += as_trained(table, inputs.numbers)
        self.read_warnings += inputs.doubts(table.frame)
        return names, inputs(table.frame)

    def save(self, folder: Path) -> None:
        if self._inputs is None:
            raise TaskError("there is nothing to save before load()")
        super().save(folder)
        self._inputs.save(folder / PREPROCESSING)

    def learnt(self) -> dict[str, Any]:
        assert self._inputs is not None
        scale = None if self._output is None else {"mean": self._output.mean, "std": self._output.std}
        columns: dict[str, Any] = {"numbers": self._inputs.numbers, "categories": self._inputs.categories}
        if self._inputs.dates:
            columns["dates"] = [dataclasses.asdict(date) for date in self._inputs.dates]
        if self._inputs.spelled:
            columns["spelled"] = self._inputs.spelled
        return {**super().learnt(), "values": scale, "columns": columns}

    def relearn(self, known: dict[str, Any], folder: Path) -> None:
        super().relearn(known, folder)
        scale, columns = known["values"], known["columns"]
        self._output = scale and Quantities(1, mean=tuple(scale["mean"]), std=tuple(scale["std"]))
        numbers, categories = columns["numbers"], columns["categories"]
        dates = [DateColumn(**one) for one in columns.get("dates", [])]
        spelled = columns.get("spelled", [])
        self._inputs = TableInputs.restore(folder / PREPROCESSING, numbers, categories, dates, spelled)


def row_keys(frame: DataFrame) -> list[int]:
    """Numbers that are equal where rows are."""
    import pandas

    keys: list[int] = pandas.util.hash_pandas_object(frame.astype(str), index=False).tolist()
    return keys


def _copies(frame: DataFrame, used: list[str], labels: list[str]) -> Iterator[str]:
    """A warning for every input that equals the target wherever that is known."""
    known = [row for row, label in enumerate(labels) if label]
    given = [labels[row] for row in known]
    for name in used:
        if len(known) > 1 and written(frame[name].iloc[known]) == given:
            yield f"column '{name}' equals the target wherever that is known; if it is a copy, add it to ignore"

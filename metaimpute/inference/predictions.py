"""Labels given to rows, as a table: in memory, in a file, against the truth."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from ..batches.outputs import Output, Standardized
from ..engine.registry import describe_choices
from ..rundir.files import replacing
from ..tasks.base import TaskError
from ..tasks.files import column, read_decimal_commas, read_table, written
from ..tasks.quoting import safe
from ..tasks.readings import class_of
from ..tasks.row_names import called
from . import doubt

NAMED = 3  # labels or classes in a message, at most


@dataclass(frozen=True)
class Predictions:
    """One label, or one value per output, for each row.

    Attributes:
        ids: how each row is found again, ``n`` of them. names: of the classes, or of the values.
        probabilities: ``[n, classes]``, or None where values are predicted. values: ``[n, outputs]`` in their own units, or None.
        spread: of each value, ``[n, outputs]`` in its own units, or None: half the width of a 90% interval where several systems
            are combined; of a network alone the standard deviation over random weak views, which is no interval.
        sets: which classes each row may be of, truth values ``[n, classes]``, where they were asked for.
    """

    ids: list[str]
    names: list[str]
    probabilities: Tensor | None = None
    values: Tensor | None = None
    spread: Tensor | None = None
    sets: Tensor | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def labels(self) -> list[str]:
        """The most probable class of each row, by name.

        Raises:
            TaskError: where values are predicted.
        """
        if self.probabilities is None:
            raise TaskError("values were predicted, not classes; see .values")
        return [self.names[number] for number in self.probabilities.argmax(-1).tolist()]

    @property
    def confidence(self) -> Tensor | None:
        """Probability of the label given, ``[n]``; None where values are predicted."""
        return None if self.probabilities is None else self.probabilities.max(-1).values

    @property
    def doubt(self) -> Tensor | None:
        """Expected errors of each row, ``[n]``: what its confidence lacks to 1; of values the squared spread, as a mean over
        outputs that are measured in their mean spread each; None where nothing says which values are surer than others."""
        if self.confidence is not None:
            return 1 - self.confidence.double()
        if self.spread is None or not len(self) or not bool(self.spread.isfinite().all()):
            return None
        if bool((self.spread == self.spread[0]).all()) and len(self) > 1:
            return None
        spread = self.spread.double()
        return (spread / spread.mean(0).clamp_min(1e-300)).square().mean(1)

    @property
    def runners_up(self) -> tuple[list[str], Tensor]:
        """The second most probable class of each row by name, and its probability ``[n]``.

        Raises:
            TaskError: where values are predicted.
        """
        if self.probabilities is None:
            raise TaskError("values were predicted, not classes; see .values")
        shares, numbers = self.probabilities.topk(min(2, len(self.names)), -1)
        return [self.names[number] for number in numbers[:, -1].tolist()], shares[:, -1]

    @property
    def _columns(self) -> list[str]:
        return ["value"] if len(self.names) == 1 else self.names

    @property
    def header(self) -> list[str]:
        """Columns of the table; ``rank`` is 1 where the label is least sure, ``doubtful`` see :mod:`.doubt`."""
        if self.probabilities is not None:
            shares = [f"p({name})" for name in self.names]
            sets = [] if self.sets is None else ["set"]
            return [
                "id",
                "label",
                "confidence",
                "rank",
                "runner_up",
                "runner_up_confidence",
                "doubtful",
                *sets,
                *shares,
            ]
        spread = [] if self.spread is None else [f"{name}_spread" for name in self._columns]
        return ["id", *self._columns, *spread, *([] if self.doubt is None else ["rank", "doubtful"])]

    def rows(self) -> list[list[Any]]:
        """The table, a list for each row in the order of :attr:`header`."""
        judged: list[Any] = [] if self.doubt is None else [doubt.ranks(self.doubt), doubt.doubtful(self.doubt)]
        if self.probabilities is not None:
            shares = [[doubt.written(p) for p in row] for row in self.probabilities.double().tolist()]
            rank, unsure = judged
            second, of_second = self.runners_up
            seconds = map(doubt.written, of_second.tolist())
            together = zip(self.ids, self.labels, shares, rank, second, seconds, unsure, *self._set_words, strict=True)
            return [[i, name, max(row), *rest, *row] for i, name, row, *rest in together]
        assert self.values is not None
        table = self.values if self.spread is None else torch.cat([self.values, self.spread], 1)
        numbers = [[float(f"{v:.6g}") for v in row] for row in table.tolist()]
        return [[i, *rest[0], *rest[1:]] for i, *rest in zip(self.ids, numbers, *judged, strict=True)]

    @property
    def _set_words(self) -> list[list[str]]:
        """The column of sets, if there is one: names with ``|`` between them, the more probable first."""
        if self.sets is None or self.probabilities is None:
            return []
        names = [name.replace("\\", "\\\\").replace("|", "\\|") for name in self.names]
        orders = self.probabilities.argsort(stable=True, dim=-1, descending=True).tolist()
        return [
            [
                "|".join(names[at] for at in order if row[at])
                for order, row in zip(orders, self.sets.tolist(), strict=True)
            ]
        ]

    def brief(self, most: int) -> tuple[list[str], list[list[Any]]]:
        """Header and first rows of the table as it is shown in a terminal."""
        if self.probabilities is None:
            count = 1 + len(self._columns) * (1 if self.spread is None else 2)
            columns = list(range(count))
        else:
            columns = [0, 1, 2, 4]
        head = self.take(range(min(most, len(self))))
        return [self.header[at] for at in columns], [[row[at] for at in columns] for row in head.rows()]

    @property
    def _parts(self) -> tuple[Tensor | None, ...]:
        return self.probabilities, self.values, self.spread, self.sets

    def at_least(self, confidence: float) -> Predictions:
        """The rows whose label is at least so probable."""
        return self.take(self.places_at_least(confidence))

    def places_at_least(self, confidence: float) -> list[int]:
        """Where a label is at least so probable."""
        if self.probabilities is None:
            raise TaskError("values have no confidence; drop the threshold")
        return (self.probabilities.max(-1).values >= confidence).nonzero()[:, 0].tolist()

    def take(self, places: Sequence[int]) -> Predictions:
        """Some of the rows, in a given order."""
        parts = (None if part is None else part[list(places)] for part in self._parts)
        return Predictions([self.ids[place] for place in places], self.names, *parts)

    def counts(self) -> dict[str, int]:
        """How many rows got each label, in the order of the classes."""
        found = Counter(self.labels)
        return {name: found[name] for name in self.names}

    def write(self, path: str | Path) -> None:
        """Writes the table as CSV, or as Parquet where the name ends so.

        Raises:
            TaskError: for another ending, or for Parquet without pyarrow.
        """
        write_rows(Path(path), self.header, self.rows())

    def against(self, path: Path, output: Output) -> tuple[float, int]:
        """Error against a file of true labels, and how many rows it holds the truth of.

        Args:
            path: table with the columns ``id`` and ``label`` (or ``value``), compared as text.
            output: whose metric it is, error in percent or root mean squared error of one value.

        Raises:
            TaskError: for a file without these columns or rows, a value that is no number, or labels none of which is a class.
        """
        known = self._truth(path)
        if self.probabilities is not None:
            if not {true for _, true in known} & set(self.names):
                found, classes = first_few(dict.fromkeys(true for _, true in known)), first_few(self.names)
                raise TaskError(f"{path}: no label is a class of this network: {found}; its classes are {classes}")
            given = self.labels
            return 100.0 * sum(given[place] != true for place, true in known) / len(known), len(known)
        assert self.values is not None
        if self.values.shape[1] != 1:
            raise TaskError(f"{path}: rows of {self.values.shape[1]} values cannot be compared with one column")
        try:
            errors = [float(self.values[place, 0]) - float(true) for place, true in known]
        except ValueError as error:
            raise TaskError(f"{path}: {error}") from None
        return (sum(e * e for e in errors) / len(errors)) ** 0.5, len(known)

    def strangers(self, path: Path) -> list[str]:
        """Of a file as :meth:`against` takes it, the true labels that are no class; they can only count as errors."""
        if self.probabilities is None:
            return []
        return [true for _, true in self._truth(path) if true not in self.names]

    def _truth(self, path: Path) -> list[tuple[int, str]]:
        """Rows of which a file holds the truth: their place and the truth as written."""
        columns = ("id", "label" if self.probabilities is not None else "value")
        words = [name for name in columns if name != "value"]
        table = read_table(path, words)
        read_decimal_commas(path, table.frame, words)
        ids, cells = (written(column(table.frame, name, "truth", path)) for name in columns)
        rows = {name.strip() for name in self.ids}
        ids = [called(name, rows) for name in ids]
        spelling = {cell: class_of(cell, self.names) for cell in set(cells)} if self.probabilities is not None else {}
        truth: dict[str, str] = {}
        for row, (name, cell) in enumerate(zip(ids, cells, strict=True)):
            label = spelling.get(cell, cell)
            if name and truth.setdefault(name, label) != label:
                raise TaskError(f"{path}: '{safe(name)}' has two truths, in {table.where([ids.index(name), row])}")
        known = [(place, truth[name.strip()]) for place, name in enumerate(self.ids) if truth.get(name.strip())]
        if not known:
            raise TaskError(f"{path} names none of these rows; their ids look like '{(self.ids or [''])[0]}'")
        return known


def check_truth(path: Path | None) -> None:
    """Raises:
    TaskError: for a file of true labels that :meth:`Predictions.against` could not read, before any label is given."""
    if path is None:
        return
    columns = list(read_table(path, ("id", "label", "value")).frame.columns)
    for wanted in ("id", *(() if "value" in columns else ("label",))):
        if wanted not in columns:
            raise TaskError(
                f"{path} has no column '{wanted}'; {describe_choices(wanted, [str(name) for name in columns])}"
            )


def write_rows(path: Path, header: list[str], rows: list[list[Any]]) -> None:
    """Writes a table as CSV, or as Parquet where the name ends so; truth values are ``true`` and ``false``.

    Raises:
        TaskError: for another ending, or for Parquet without pyarrow.
    """
    kind = path.suffix.lower()
    if kind not in (".csv", ".parquet"):
        raise TaskError(f"{path}: labels are written as .csv or .parquet")
    if kind == ".csv":
        with replacing(path) as partial, _csv_file(partial) as stream:
            plain = ([str(cell).lower() if isinstance(cell, bool) else cell for cell in row] for row in rows)
            csv.writer(stream).writerows([header, *plain])
        return
    import pandas

    try:
        with replacing(path) as partial:
            pandas.DataFrame(rows, columns=header).to_parquet(partial, index=False)
    except ImportError:
        raise TaskError(f"{path}: Parquet needs pyarrow: pip install pyarrow") from None


def _csv_file(path: Path) -> IO[str]:
    return path.open("w", newline="", encoding="utf-8", errors="backslashreplace")


def first_few(names: Iterable[str]) -> str:
    """Names for a message, in quotes."""
    every = list(names)
    return ", ".join(f"'{name}'" for name in every[:NAMED]) + (", ..." if len(every) > NAMED else "")


def in_units(output: Output, raw: Tensor) -> Tensor:
    """Predicted values ``[n, outputs]`` in their own units."""
    return output.original(raw) if isinstance(output, Standardized) else raw

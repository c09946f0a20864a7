"""One's own texts: a table with a text column and a label column, blank where a text has no label."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch

from ..ranges import Count, Share
from .alike import alike_said
from .base import Missing, TaskData, TaskError, register_task
from .doubts import words_for_none
from .files import column, missing_file, read_table, require_rows, written
from .lazy import LazyPool
from .locate import locate_file
from .own_data import Content, OwnData, numbered, ordered
from .quoting import how_many
from .readings import MissingValues, blank_out, one_spelling
from .row_names import no_names, trouble
from .text_task import TextTask, read_texts


@register_task("own_text")
@dataclass
class OwnText(TextTask, OwnData):
    """One's own texts, from a CSV or Parquet file; a blank label is a text without one.

    Args:
        file: a path, or a name looked for where data is looked for. test: another such file with test texts.
        text, label: columns. id: column with a name for each row; empty: row numbers from 0.
        missing_values: words for "none" beside blank, ``["?"]`` in every column or ``{column: ["?"]}``; ``[]``: there are none.
        labels: at most so many of the labels are trained on, drawn by seed; 0 for all.
        validation: labelled texts kept for choosing settings.
        test_share: share of the labelled texts held out as test set, where there is no test file.
        corrections: a file of labels, ``id`` and ``label``, that go before those of the file.
        new_classes: classes that corrections alone name.
        replace: mean share of words replaced in a strong view. crop: share of the words that a passage keeps; below 1, every
            other strong view is a random passage of the text in place of a replacement.
        copies: strong versions there are of each text; None: any number.
    """

    things = "texts"
    label_option = "label"
    to_unlabel = "leave some labels blank, or name the word that means none in missing_values"

    file: str = ""
    test: str = ""
    text: str = "text"
    label: str = "label"
    id: str = ""
    missing_values: MissingValues = None
    replace: Share = 0.5
    crop: Share = 0.5
    copies: Count | None = 2
    _said: list[str] = field(default_factory=list, init=False, repr=False)
    _alike: list[str] = field(default_factory=list, init=False, repr=False)
    _read: dict[str, tuple[list[str], list[str], list[str]]] = field(default_factory=dict, init=False, repr=False)

    def check(self) -> None:
        if not self.file:
            raise TaskError("file: name a CSV or Parquet file with a text and a label column")
        super().check()

    def missing(self) -> list[Missing]:
        return [missing_file(name) for name in (self.file, self.test) if name and locate_file(name) is None]

    def _rows(self, name: str) -> tuple[list[str], list[str], list[str]]:
        """Row names, texts and labels of a file."""
        if name not in self._read:
            path = locate_file(name)
            assert path is not None
            table = read_table(path, (self.text, self.label, self.id))
            named = list(self.missing_values) if isinstance(self.missing_values, dict) else []
            options = [("text", self.text), ("label", self.label), ("id", self.id)]
            for option, wanted in (*options, *(("missing_values", one) for one in named)):
                if wanted:
                    column(table.frame, wanted, option, path)
            blank_out(table.frame, self.missing_values)
            wrong = trouble(table, self.id, self.missing_values is not None) if self.id else ""
            if wrong:
                raise TaskError(no_names(self.id, wrong))
            texts, labels = (written(table.frame[name]) for name in (self.text, self.label))
            names = written(table.frame[self.id]) if self.id else [str(row) for row in range(len(texts))]
            self._alike += alike_said(table.frame[self.label].dropna().astype(str))
            self._read[name] = names, texts, labels
        return self._read[name]

    def _labels(self) -> list[str]:
        """Labels of all rows, those of the test file last, blank where there is none."""
        return one_spelling([label for name in (self.file, self.test) if name for label in self._rows(name)[2]])

    def listed_labels(self) -> list[str]:
        labels = self._labels()
        self._said = [*self._alike, *words_for_none(labels, "label", self.label, self.missing_values)]
        return ordered(labels)

    def gather(self) -> Content:
        names, texts, _ = map(list, self._rows(self.file))
        before, labels = len(texts), self._labels()
        if self.test:
            for known, more in zip((names, texts), self._rows(self.test), strict=False):
                known += more
            if not all(labels[before:]):
                raise TaskError(f"test: {how_many(labels[before:].count(''), 'row')} of {self.test} without a label")
        kept = [row for row, text in enumerate(texts) if text]
        blank = len(texts) - len(kept)
        warnings = (*self._said, *([f"left out {how_many(blank, 'row')} without text"] if blank else []))
        targets = numbered([labels[row] for row in kept], self.label_names or [])
        tested = torch.tensor([place for place, row in enumerate(kept) if row >= before]) if self.test else None
        held = [texts[row] for row in kept]
        pool = LazyPool(held, targets, torch.arange(len(kept)))
        return Content(pool, [names[row] for row in kept], held, tested, Path(self.file).name, warnings)

    def finish(self, data: TaskData) -> TaskData:
        self.fit_augmentation(data.unlabelled)
        return data

    def read(self, path: Path) -> tuple[list[str], list[str]]:
        """Texts from the text column of a CSV or Parquet file, or the lines of any other file; blank ones are left out."""
        names, texts, said = read_texts(path, self.text, self.id)
        require_rows(path, len(texts))
        kept = [row for row, text in enumerate(texts) if text.strip()]
        if not kept:
            self.read_warnings = [*said, "no row holds any text"]
            return names, texts
        blank = len(texts) - len(kept)
        self.read_warnings = [*said, *([f"left out {how_many(blank, 'row')} without text"] if blank else [])]
        return [names[row] for row in kept], [texts[row] for row in kept]

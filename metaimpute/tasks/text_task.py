"""What the text tasks share: views, augmentation fitted to the unlabelled texts, and a reader of one's own texts."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch

from ..batches import ViewKind
from ..engine.pytree import Tree
from ..ranges import Count, Share
from ..streams import Stream
from .base import Pool, Task, TaskData, TaskError
from .encodings import opened
from .files import column, is_table, read_table, written
from .row_names import names_of
from .splits import generator
from .text_augment import TfIdfReplacement, Versions

CORPUS = 5000


@dataclass
class TextTask(Task):
    """Base of the text tasks.

    Args:
        replace: mean share of words replaced in a strong view. crop: share of the words that a passage keeps; below 1, every
            other strong view is a random passage of the text in place of a replacement.
        copies: strong versions there are of each text; None: any number.
    """

    input_kind = "text"

    replace: Share = 0.4
    crop: Share = 1.0
    copies: Count | None = None
    _versions: Versions | None = field(default=None, init=False, repr=False)

    def check(self) -> None:
        super().check()
        if not 0 < self.crop <= 1:
            raise TaskError(f"crop: a share of the words in (0, 1], not {self.crop:g}")
        if not 0 <= self.replace <= 1:
            raise TaskError(f"replace: a share of the words in [0, 1], not {self.replace:g}")

    def fit_augmentation(self, pool: Pool) -> None:
        """Scores words on a sample of the unlabelled texts; strong views need it."""
        order = torch.randperm(len(pool), generator=generator(0, Stream.CORPUS), device="cpu")[:CORPUS]
        fitted = TfIdfReplacement.fit(list(pool.take(order)), self.replace)
        self._versions = Versions(fitted, self.crop, self.copies)

    def distinct_inputs(self, data: TaskData, unlabelled: bool) -> list[str] | None:
        if self.copies is None or self._versions is None:
            return None
        pools = [data.labelled, data.unlabelled] if unlabelled else [data.labelled]
        return [view for pool in pools for text in pool.inputs for view in (text, *self._versions.all(text))]

    def strong(self, texts: list[str], generator: torch.Generator) -> list[str]:
        """A passage or word replacement of each text."""
        if self._versions is None:
            raise TaskError("strong views of text need load() first")
        return self._versions.draw(texts, generator)

    def view(self, raw: list[str], kind: ViewKind, generator: torch.Generator) -> Tree:
        """Model inputs; weak views keep the text as it is."""
        texts = self.strong(raw, generator) if kind == "strong" else raw
        if self.prepare_inputs is None:
            raise TaskError("the text task is not bound to a model that can tokenize")
        return self.prepare_inputs(texts)

    def read(self, path: Path) -> tuple[list[str], list[str]]:
        """Texts from the ``text`` column of a CSV or Parquet file, or the lines of any other file; names are row numbers."""
        names, texts, self.read_warnings = read_texts(path, "text", "")
        return names, texts


def read_texts(path: Path, text: str, identity: str) -> tuple[list[str], list[str], list[str]]:
    """Row names and texts of a file, and what is to be said of them.

    Args:
        text: column of texts. identity: column of row names; without it they are row numbers.

    Raises:
        TaskError: when the file cannot be read or has no such column of texts.
    """
    if not is_table(path):
        try:
            with opened(path, newline=None) as file:  # a line ends where the user's editor says so, not at a form feed
                texts = [line.removesuffix("\n") for line in file]
        except OSError as error:
            raise TaskError(f"{path} cannot be read as text ({error})") from None
        return [str(row) for row in range(len(texts))], texts, []
    table = read_table(path, (text, identity))
    texts = written(column(table.frame, text, "text", path))
    names, said = names_of(table, identity)
    return names, texts, said

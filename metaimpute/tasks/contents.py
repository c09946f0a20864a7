"""What a row holds, as a person sees it: a text, the path of an image, or the cells of a table's row."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from .base import Pool, Task, TaskError
from .files import column, is_table, read_table, written
from .image_files import ImageFileTask, named_images
from .own_images import contents as file_contents
from .own_table import OwnTable
from .own_text import OwnText
from .text_task import read_texts

Kind = Literal["text", "image", "cells"]


@dataclass(frozen=True)
class Contents:
    """Contents of rows.

    Attributes:
        columns: what each cell of a row is called: ``text``, ``path`` or a table's columns. rows: cells as words.
    """

    kind: Kind
    columns: list[str]
    rows: list[list[str]]

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, places: Sequence[int]) -> Contents:
        return Contents(self.kind, self.columns, [self.rows[place] for place in places])

    def joined(self, other: Contents) -> Contents:
        return Contents(self.kind, self.columns, [*self.rows, *other.rows])


def contents_of(task: Task, pool: Pool) -> Contents | None:
    """Contents of a pool of a task that has been loaded; None where a task's rows are nothing to be read."""
    if isinstance(task, OwnTable):
        columns, rows = task.cells(pool.ids.tolist())
        return Contents("cells", columns, rows)
    if isinstance(task, ImageFileTask):
        return Contents("image", ["path"], [[str(path.absolute())] for path in pool.inputs])
    if task.input_kind == "text":
        return Contents("text", ["text"], [[str(text)] for text in pool.inputs])
    return None


def keys_of(task: Task, pool: Pool) -> list[Hashable] | None:
    """What is equal where two rows hold the same: files byte by byte, texts but for spaces and capitals, cells of rows; None as
    for :func:`contents_of`."""
    if isinstance(task, OwnTable):
        return list(task.keys(pool.ids.tolist()))
    if isinstance(task, ImageFileTask):
        return file_contents([Path(path) for path in pool.inputs])
    return [" ".join(str(text).casefold().split()) for text in pool.inputs] if task.input_kind == "text" else None


def contents_in(task: Task, path: Path, names: Sequence[str]) -> Contents | None:
    """Contents of a file or folder that ``task.read`` has read.

    Args:
        names: that it gave; images that cannot be read are not among them.

    Raises:
        TaskError: when the file cannot be read, or has changed meanwhile.
    """
    if isinstance(task, OwnTable):
        columns = list(task.columns)
        frame = read_table(path, as_words=columns).frame
        cells = [written(column(frame, name, "columns", path)) for name in columns]
        return _as_many(path, Contents("cells", columns, [list(row) for row in zip(*cells, strict=True)]), names)
    if isinstance(task, ImageFileTask):
        place = dict(zip(*named_images(path, root=task.root_of(path)), strict=True))
        return Contents("image", ["path"], [[str(place[name].absolute())] for name in names])
    if task.input_kind == "text":
        text = task.text if isinstance(task, OwnText) else "text"
        _, texts, _ = read_texts(path, text, "") if is_table(path) else read_texts(path, "", "")
        return _as_many(
            path,
            Contents("text", ["text"], [[one] for one in texts if one.strip() or not any(map(str.strip, texts))]),
            names,
        )
    return None


def _as_many(path: Path, contents: Contents, names: Sequence[str]) -> Contents:
    if len(contents.rows) != len(names):
        raise TaskError(f"{path} has changed while it was read")
    return contents

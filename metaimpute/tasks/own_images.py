"""One's own images: a few in folders by class and many in one without labels, or a table that labels some in any folder."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ..ranges import Share
from .alike import alike_said
from .base import Missing, TaskError, register_task
from .decoded import in_threads
from .files import missing_file
from .image_files import OWN, FilePool, ImageFileTask, Side, list_images
from .image_listing import LeftOut, classes_of, images_in, name_in, readable
from .image_names import ImageNames
from .image_reading import sides_of
from .image_table import TableLabels, table_labels
from .locate import expanded, locate_file
from .own_data import Content, OwnData, numbered, ordered
from .quoting import how_many, safe, shortened
from .readings import MissingValues

TABLE_REMEDY = "put it there, or name another with task.table"


@dataclass(frozen=True)
class Sorted:
    """Images, and which class each is of; -1 for none.

    Attributes:
        before: so many come before those of the test set. left: what is no image of the data. said: a line each.
    """

    paths: list[Path]
    targets: Tensor
    before: int
    left: LeftOut
    said: list[str]


class ByTable(NamedTuple):
    """Images of a folder, what in it is none, and what a table says of them."""

    paths: list[Path]
    left: LeftOut
    told: TableLabels


@register_task("own_images")
@dataclass
class OwnImages(ImageFileTask, OwnData):
    """One's own images: ``labelled/<class>/``, ``unlabelled/`` and, where there is one, ``test/<class>/`` in a folder.

    With a ``table`` of labels images lie in the folder in any way, and those that it gives no label are unlabelled.

    Images that cannot be read are left out with a warning, and so are hidden files, linked folders and files of other kinds.

    Args:
        folder: a path, or a name looked for where data is looked for.
        table: a CSV or Parquet file that says which images have which label; empty: the folders do.
        image_column, label: its columns of images, named by their paths inside the folder, and of labels; empty: they are found.
        missing_values: words for "none" beside blank among its labels, ``["?"]``; ``[]``: there are none.
        labels: at most so many of the labels are trained on, drawn by seed; 0 for all.
        validation: labelled images kept for choosing settings.
        test_share: share of the labelled images held out as test set, where there is no ``test/``.
        corrections: a file of labels, ``id`` and ``label``, that go before those of the folders or the table.
        new_classes: classes that corrections alone name.
        size: side of the network's input; images are resized so that the shorter side has it, and cropped to a square.
        flip: whether mirror images are views. cache_gb: decoded images are kept in memory up to so many gigabytes.
        augment_probability: with which RandAugment applies each operation that it has drawn for a strong view.
        copies: strong versions of each image where the model is a frozen encoder; None: any number.
    """

    things = "images"

    table: str = ""
    image_column: str = ""
    label: str = ""
    missing_values: MissingValues = None
    size: Side = 32
    test_share: Share = 0.2
    _told: tuple[Hashable, ByTable] | None = field(default=None, init=False, repr=False)

    @property
    def marker(self) -> str:  # type: ignore[override]  # a table says what folders say otherwise
        return "" if self.table else "labelled"

    @property
    def label_option(self) -> str:  # type: ignore[override]
        return "table" if self.table else "folder"

    @property
    def to_unlabel(self) -> str:  # type: ignore[override]
        return "take some out of the table, or leave their labels blank" if self.table else super().to_unlabel

    def check(self) -> None:
        if not self.folder:
            raise TaskError(
                "folder: name the folder that holds labelled/CLASS/ and unlabelled/, or the images of a table"
            )
        for option in ("image_column", "label", "missing_values"):
            if getattr(self, option) and not self.table:
                raise TaskError(f"{option}: is of a table of labels, and there is none; name it with table")
        super().check()

    def missing(self) -> list[Missing]:
        if not self.table or locate_file(self.table) is not None:
            return super().missing()
        return [*super().missing(), missing_file(self.table, TABLE_REMEDY)]

    def remedy(self) -> str:
        if self.table:
            return "put the images there, or name another folder with task.folder"
        return (
            "make labelled/CLASS/ and unlabelled/ with images in them there, name another folder with task.folder, or a table of "
            "labels with task.table"
        )

    def files_read(self) -> list[Path]:
        table = locate_file(self.table) if self.table else None
        return [*super().files_read(), *([] if table is None else [table])]

    def listed_labels(self) -> list[str]:
        return ordered(self.told_by_table().labels) if self.table else classes_of(self.here() / "labelled")

    def told_by_table(self) -> TableLabels:
        """What the table says of the images.

        Raises:
            TaskError: ``option: reason``.
        """
        return self._by_table().told

    def _by_table(self) -> ByTable:
        folder, table = self.here(), locate_file(self.table)
        assert table is not None
        asked = (folder, table, self.image_column, self.label, str(self.missing_values))
        if self._told is None or self._told[0] != asked:
            left = LeftOut()
            paths = images_in(folder, left)
            if not paths:
                raise TaskError(f"folder: {folder} holds no images")
            left.forget(table, folder)
            names = ImageNames(folder, paths, table)
            told = table_labels(table, names, self.image_column, self.label, self.missing_values)
            self._told = asked, ByTable(paths, left, told)
        return self._told[1]

    def root_of(self, path: Path) -> Path:
        """With a table, the images' folder where a path lies in it, or in one that is called the same."""
        if not self.table:
            return super().root_of(path)
        whole, here, called = path.absolute(), self.found(), expanded(self.folder).name
        folders = [one for one in (whole, *whole.parents) if one.is_dir()]
        same = [one for one in folders if here is not None and one.samefile(here)]
        alike = [one for one in folders if called and one.name == called]
        return [*same, *alike, whole.parent if path.is_file() else whole][0]

    def gather(self) -> Content:
        return self._content(self._sorted_by_table() if self.table else self._sorted_by_folder())

    def _sorted_by_table(self) -> Sorted:
        paths, left, told = self._by_table()
        said = list(told.said)
        if all((self.here() / part).is_dir() for part in OWN):
            said.append(
                f"labelled/ is read as any other folder: labels are those of {safe(Path(self.table).name)} alone"
            )
        return Sorted(paths, numbered(told.labels, self.label_names or []), len(paths), left, said)

    def _sorted_by_folder(self) -> Sorted:
        folder, classes, left = self.here(), self.label_names or [], LeftOut()
        paths, targets = list_images(folder / "labelled", classes, left=left)
        bare = images_in(folder / "unlabelled", left)
        if not bare:
            raise TaskError(f"folder: {folder / 'unlabelled'} holds no images")
        paths, targets = [*paths, *bare], [*targets, *[-1] * len(bare)]
        before = len(paths)
        if (folder / "test").is_dir():
            more, known = list_images(folder / "test", classes, "labelled", left)
            paths, targets = [*paths, *more], [*targets, *known]
        return Sorted(paths, torch.tensor(targets), before, left, list(alike_said(classes)))

    def _content(self, found: Sorted) -> Content:
        """What can be read of the images that were found."""
        folder, read, paths = self.here(), self.decoded(), found.paths
        good = torch.tensor(read.readable(paths))
        bad = [name_in(folder, path) for path, fine in zip(paths, good.tolist(), strict=True) if not fine]
        if len(bad) == len(paths):
            raise TaskError(f"folder: none of the {len(paths):,} images in {folder} can be read")
        given = not self.table and (folder / "test").is_dir()
        tested = torch.arange(int(good[: found.before].sum()), int(good.sum())) if given else None
        kept = [path for path, fine in zip(paths, good.tolist(), strict=True) if fine]
        pool = FilePool(kept, found.targets[good], torch.arange(len(kept)), read)
        unread = (f"left out {how_many(len(bad), 'image')} that cannot be read: {shortened(bad)}",) if bad else ()
        warnings = (*unread, *found.left.said(readable(folder.name)), *read.doubts(folder), *found.said)
        names = [name_in(folder, path) for path in kept]
        return Content(pool, names, contents(kept), tested, readable(folder.name), warnings)


def contents(paths: list[Path]) -> list[Hashable]:
    """Keys that are equal where files are."""
    return in_threads(lambda path: hashlib.sha256(path.read_bytes()).hexdigest(), paths)


def pixel_sides(paths: list[Path]) -> Tensor:
    """Width and height of image files, ``[n, 2]``, from their headers; 0 where a file is no image."""
    return torch.tensor(in_threads(sides_of, paths)).view(-1, 2)

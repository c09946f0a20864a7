"""One's own images: a few in folders by class, many in one folder without labels."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..ranges import Share
from .alike import alike_said
from .base import TaskError, register_task
from .decoded import in_threads
from .image_files import FilePool, ImageFileTask, Side, list_images
from .image_listing import LeftOut, classes_of, images_in, name_in, readable
from .image_reading import sides_of
from .own_data import Content, OwnData
from .quoting import how_many, shortened


@register_task("own_images")
@dataclass
class OwnImages(ImageFileTask, OwnData):
    """One's own images: ``labelled/<class>/``, ``unlabelled/`` and, where there is one, ``test/<class>/`` in a folder.

    Images that cannot be read are left out with a warning, and so are hidden files, linked folders and files of other kinds.

    Args:
        folder: a path, or a name looked for where data is looked for.
        labels: at most so many of the labels are trained on, drawn by seed; 0 for all.
        validation: labelled images kept for choosing settings.
        test_share: share of the labelled images held out as test set, where there is no ``test/``.
        corrections: a file of labels, ``id`` and ``label``, that go before those of the folders.
        new_classes: classes that corrections alone name.
        size: side of the network's input; images are resized so that the shorter side has it, and cropped to a square.
        flip: whether mirror images are views. cache_gb: decoded images are kept in memory up to so many gigabytes.
        augment_probability: with which RandAugment applies each operation that it has drawn for a strong view.
        copies: strong versions of each image where the model is a frozen encoder; None: any number.
    """

    things = "images"
    label_option = "folder"
    marker = "labelled"

    size: Side = 32
    test_share: Share = 0.2

    def check(self) -> None:
        if not self.folder:
            raise TaskError("folder: name the folder that holds labelled/CLASS/ and unlabelled/")
        super().check()

    def remedy(self) -> str:
        return "make labelled/CLASS/ and unlabelled/ with images in them there, or name another folder with task.folder"

    def listed_labels(self) -> list[str]:
        return classes_of(self.here() / "labelled")

    def gather(self) -> Content:
        folder, classes, left = self.here(), self.label_names or [], LeftOut()
        paths, targets = list_images(folder / "labelled", classes, left=left)
        bare = images_in(folder / "unlabelled", left)
        if not bare:
            raise TaskError(f"folder: {folder / 'unlabelled'} holds no images")
        paths, targets = [*paths, *bare], [*targets, *[-1] * len(bare)]
        tested, before = None, len(paths)
        if (folder / "test").is_dir():
            more, known = list_images(folder / "test", classes, "labelled", left)
            paths, targets = [*paths, *more], [*targets, *known]
        read = self.decoded()
        good = torch.tensor(read.readable(paths))
        bad = [name_in(folder, path) for path, fine in zip(paths, good.tolist(), strict=True) if not fine]
        if len(bad) == len(paths):
            raise TaskError(f"folder: none of the {len(paths):,} images in {folder} can be read")
        if (folder / "test").is_dir():
            tested = torch.arange(int(good[:before].sum()), int(good.sum()))
        kept = [path for path, fine in zip(paths, good.tolist(), strict=True) if fine]
        pool = FilePool(kept, torch.tensor(targets)[good], torch.arange(len(kept)), read)
        unread = (f"left out {how_many(len(bad), 'image')} that cannot be read: {shortened(bad)}",) if bad else ()
        warnings = (*unread, *left.said(readable(folder.name)), *read.doubts(folder), *alike_said(classes))
        names = [name_in(folder, path) for path in kept]
        return Content(pool, names, contents(kept), tested, readable(folder.name), warnings)


def contents(paths: list[Path]) -> list[Hashable]:
    """Keys that are equal where files are."""
    return in_threads(lambda path: hashlib.sha256(path.read_bytes()).hexdigest(), paths)


def pixel_sides(paths: list[Path]) -> Tensor:
    """Width and height of image files, ``[n, 2]``, from their headers; 0 where a file is no image."""
    return torch.tensor(in_threads(sides_of, paths)).view(-1, 2)

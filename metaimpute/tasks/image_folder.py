"""Folders of images, one per class: ImageNet-72, Tiny-ImageNet, or one's own.

``imagenet72`` is the paper's large-scale data (section 5.3, Table 3, appendix A.3): ImageNet with the shorter side resized
to 72 pixels, 5% of each class labelled, the official validation images as test set.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from ..bounds import Natural, NonNegative, Share
from .base import Missing, MissingData, Task, TaskData, TaskError, ViewKind, register_task
from .image_files import Decoded, FilePool, classes_of, list_images, squares
from .image_views import ImageViews
from .locate import data_folders, find
from .outputs import Classes
from .splits import semi_supervised

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
Side = Annotated[int, Field(ge=8, le=4096)]


@register_task("image_folder")
@dataclass
class ImageFolder(Task):
    """One's own images, ``train/<class>/`` and ``val/<class>/`` in a folder; ``val`` is the test set.

    Args:
        folder: a name looked for where data is looked for, or a path.
        labels: labelled images in all, balanced; 0 for a ``label_share`` of every class.
        validation: training images kept for choosing settings, balanced.
        size: side of the network's input; images are resized so that the shorter side has it, and cropped to a square.
        flip: whether mirror images are views. cache_gb: decoded images are kept in memory up to so many gigabytes.
    """

    input_kind = "image"

    folder: str = ""
    labels: Natural = 0
    label_share: Share = 0.05
    size: Side = 64
    flip: bool = True
    cache_gb: NonNegative = 1.0
    _classes: list[str] | None = field(default=None, init=False, repr=False)

    @property
    def input_shape(self) -> tuple[int, ...]:  # type: ignore[override]
        return (3, self.size, self.size)

    def found(self) -> Path | None:
        """The folder, when it is here."""
        if not self.folder:
            return None
        path = Path(self.folder).expanduser()
        if (path / "train").is_dir():
            return path
        return None if path.is_absolute() else find(self.folder, "train")

    @property
    def output(self) -> Classes:
        """As many classes as ``train/`` has folders; two while the folder is not here."""
        folder = self.found()
        if self._classes is None and folder is not None:
            self._classes = classes_of(folder)
        return Classes(max(len(self._classes or ()), 2))

    def check(self) -> None:
        if not self.folder:
            raise TaskError("folder: name the folder that holds train/ and val/")
        if not self.labels and not self.label_share:
            raise TaskError("labels: give a number of labelled images, or a label_share above 0")
        if self.found() is not None and self.labels:
            super().check()

    def missing(self) -> list[Missing]:
        if self.found() is not None:
            return []
        absolute = Path(self.folder).expanduser().is_absolute()
        looked = (self.folder,) if absolute else tuple(str(folder / self.folder) for folder in data_folders())
        return [Missing(f"images ({self.folder}/train/)", looked, self.remedy())]

    def remedy(self) -> str:
        return "put train/CLASS/*.jpg and val/CLASS/*.jpg in one of these, or name another folder with task.folder"

    def load(self, seed: int) -> TaskData:
        folder = self.found()
        if folder is None:
            raise MissingData(self.missing())
        classes = self._classes = classes_of(folder)
        if len(classes) < 2:
            raise TaskError(f"folder: {folder / 'train'} holds {len(classes)} classes")
        if not (folder / "val").is_dir():
            raise TaskError(f"folder: {folder} has no folder val/ for the test images")
        read = Decoded(self.size, self.cache_gb * 1e9)
        pools = {}
        for part in ("train", "val"):
            paths, targets = list_images(folder / part, classes)
            pools[part] = FilePool(paths, torch.tensor(targets), torch.arange(len(paths)), read)
        return semi_supervised(
            pools["train"], pools["val"], labels=self.labels, label_share=self.label_share, validation=self.validation,
            classes=len(classes), seed=seed, include_labelled=self.unlabelled_includes_labelled,
            source=f"{folder.name} ({len(classes)} classes, {len(pools['val']):,} test images)",
        )  # fmt: skip

    def view(self, raw: list[Tensor], kind: ViewKind, generator: torch.Generator) -> Tensor:
        windows = squares(raw, self.size, None if kind == "none" else generator)
        return ImageViews(MEAN, STD, flip=self.flip)(windows, kind, generator)


@register_task("imagenet72")
@dataclass
class ImageNet72(ImageFolder):
    """ImageNet with the shorter side at 72 pixels, 5% of each class labelled (paper, Table 3).

    Args:
        folder: a name looked for where data is looked for, or a path; full-size ImageNet works and is resized when read.
        labels, label_share, validation, size, flip, cache_gb: as in image_folder.
    """

    folder: str = "imagenet-72"
    size: Side = 72

    def remedy(self) -> str:
        return (
            "get ILSVRC2012 from image-net.org (registration needed) and put it there as train/WNID/*.JPEG and "
            "val/WNID/*.JPEG, resized to a shorter side of 72 pixels or not"
        )


@register_task("tiny_imagenet")
@dataclass
class TinyImageNet(ImageFolder):
    """Tiny-ImageNet: 200 classes of 500 images, 64 x 64 pixels; any number of its class folders will do.

    Args:
        folder: a name looked for where data is looked for, or a path.
        labels, label_share, validation, size, flip, cache_gb: as in image_folder.
    """

    folder: str = "tiny-imagenet-200"

    def remedy(self) -> str:
        return (
            "get tiny-imagenet-200.zip from cs231n.stanford.edu and unpack it there, so that train/WNID/images/*.JPEG and "
            "val/val_annotations.txt lie in it"
        )

"""Folders of images, one per class: ImageNet-72, Tiny-ImageNet, or one's own.

``imagenet72`` is the paper's large-scale data (section 5.3, Table 3, appendix A.3): ImageNet with the shorter side resized
to 72 pixels, 5% of each class labelled, the official validation images as test set.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import torch

from ..batches.outputs import Classes
from ..ranges import Natural, Share
from .base import Pool, TaskData, TaskError, register_task
from .image_files import FilePool, ImageFileTask, Side, list_images
from .image_listing import LeftOut, classes_of, name_in, readable
from .splits import semi_supervised


@register_task("image_folder")
@dataclass
class ImageFolder(ImageFileTask):
    """One's own images, ``train/<class>/`` and ``val/<class>/`` in a folder; ``val`` is the test set.

    Args:
        folder: a name looked for where data is looked for, or a path.
        labels: labelled images in all, balanced; 0 for a ``label_share`` of every class.
        validation: training images kept for choosing settings, balanced.
        size: side of the network's input; images are resized so that the shorter side has it, and cropped to a square.
        flip: whether mirror images are views. cache_gb: decoded images are kept in memory up to so many gigabytes.
        augment_probability: with which RandAugment applies each operation that it has drawn for a strong view.
        copies: strong versions of each image where the model is a frozen encoder; None: any number.
    """

    says_left_out: ClassVar[bool] = True  # of published data it is known what else lies beside the images

    labels: Natural = 0
    label_share: Share = 0.05

    @property
    def label_names(self) -> list[str] | None:
        """The folders in ``train/``."""
        folder = self.found()
        if self._label_names is None and folder is not None:
            self._label_names = classes_of(folder / "train")
        return self._label_names

    @property
    def output(self) -> Classes:
        """As many classes as ``train/`` has folders; two while the folder is not here."""
        return Classes(max(len(self.label_names or ()), 2))

    def check(self) -> None:
        if not self.folder:
            raise TaskError("folder: name the folder that holds train/ and val/")
        if not self.labels and not self.label_share:
            raise TaskError("labels: give a number of labelled images, or a label_share above 0")
        if self.found() is not None and self.labels:
            super().check()

    def remedy(self) -> str:
        return "put train/CLASS/*.jpg and val/CLASS/*.jpg in one of these, or name another folder with task.folder"

    def load(self, seed: int) -> TaskData:
        folder = self.here()
        classes = self._label_names = classes_of(folder / "train")
        if len(classes) < 2:
            raise TaskError(f"folder: {folder / 'train'} holds {len(classes)} classes")
        if not (folder / "val").is_dir():
            raise TaskError(f"folder: {folder} has no folder val/ for the test images")
        read, left = self.decoded(), LeftOut()
        pools = {}
        for part in ("train", "val"):
            paths, targets = list_images(folder / part, classes, left=left)
            pools[part] = FilePool(paths, torch.tensor(targets), torch.arange(len(paths)), read)
        data = semi_supervised(
            pools["train"],
            pools["val"],
            labels=self.labels,
            label_share=self.label_share,
            validation=self.validation,
            classes=len(classes),
            seed=seed,
            include_labelled=self.unlabelled_includes_labelled,
            source=f"{readable(folder.name)} ({len(classes)} classes, {len(pools['val']):,} test images)",
        )
        said = left.said(readable(folder.name)) if self.says_left_out else ()
        return dataclasses.replace(data, warnings=(*data.warnings, *said))

    def row_names(self, pool: Pool) -> list[str]:
        """Paths relative to the data folder."""
        return [name_in(self.here(), path) for path in pool.inputs]


@register_task("imagenet72")
@dataclass
class ImageNet72(ImageFolder):
    """ImageNet with the shorter side at 72 pixels, 5% of each class labelled (paper, Table 3).

    Args:
        folder: a name looked for where data is looked for, or a path; full-size ImageNet works and is resized when read.
        labels, label_share, validation, size, flip, cache_gb, augment_probability, copies: as in image_folder.
    """

    says_left_out = False

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
        labels, label_share, validation, size, flip, cache_gb, augment_probability, copies: as in image_folder.
    """

    says_left_out = False

    folder: str = "tiny-imagenet-200"

    def remedy(self) -> str:
        return (
            "get tiny-imagenet-200.zip from cs231n.stanford.edu and unpack it there, so that train/WNID/images/*.JPEG and "
            "val/val_annotations.txt lie in it"
        )

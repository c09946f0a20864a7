"""Fashion-MNIST (Xiao, Rasul and Vollgraf, 2017): 70,000 grey images of ten kinds of clothing, also a Debian package."""

from __future__ import annotations

import gzip
import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..batches import ViewKind
from ..batches.outputs import Classes
from ..ranges import Count, Natural
from .base import Missing, MissingData, Pool, TaskData, TaskError, register_task
from .image_task import ImageTask
from .image_views import ImageViews
from .locate import data_folders
from .splits import semi_supervised

SIDE = 28
SYSTEM = (Path("/usr/share/datasets/fashion-mnist"), Path("/usr/share/dataset-fashion-mnist"))
PARTS = {"train": "train", "test": "t10k"}
KINDS = ("T-shirt", "trousers", "pullover", "dress", "coat", "sandal", "shirt", "trainer", "bag", "ankle boot")
VIEWS = ImageViews((0.2860,), (0.3530,))


def read_idx(path: Path) -> Tensor:
    """An array in the IDX format of unsigned bytes, gzip-compressed or not.

    Raises:
        TaskError: naming a file that is not one.
    """
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        if content[:3] != b"\0\0\x08":
            raise ValueError("no unsigned bytes in IDX format")
        shape = np.frombuffer(content, ">i4", count=content[3], offset=4)
        values = np.frombuffer(content, np.uint8, offset=4 + 4 * len(shape))
        if math.prod(shape.tolist()) != len(values):
            raise ValueError("it is cut off")
    except (ValueError, IndexError, EOFError, gzip.BadGzipFile) as error:
        raise TaskError(f"{path} cannot be read ({error}); fetch it again") from None
    return torch.from_numpy(values.reshape(shape).copy())


def places() -> list[Path]:
    """Folders searched for the four files, torchvision's layout and the Debian package's."""
    return [*(folder / "FashionMNIST" / "raw" for folder in data_folders()), *SYSTEM]


def find_fashion_mnist() -> Path | None:
    """The first folder that holds all four files."""
    for folder in places():
        if all(_file(folder, part, kind) for part in PARTS for kind in ("images-idx3", "labels-idx1")):
            return folder
    return None


def _file(folder: Path, part: str, kind: str) -> Path | None:
    plain = folder / f"{PARTS[part]}-{kind}-ubyte"
    return next((path for path in (plain, plain.with_name(f"{plain.name}.gz")) if path.exists()), None)


@register_task("fashion_mnist")
@dataclass
class FashionMNIST(ImageTask):
    """Fashion-MNIST: ten kinds of clothing, 28 x 28 grey pixels, 60,000 training and 10,000 test images.

    Args:
        labels: labelled images in all, balanced. validation: training images kept for choosing settings.
        flip: whether mirror images are views; off, because the shoes of the data set point to the left.
        copies: strong versions of each image where the model is a frozen encoder; None: any number.
    """

    input_shape = (1, SIDE, SIDE)

    labels: Count = 100
    validation: Natural = 5000
    flip: bool = False

    @property
    def output(self) -> Classes:
        return Classes(10)

    @property
    def label_names(self) -> list[str]:
        return list(KINDS)

    def missing(self) -> list[Missing]:
        if find_fashion_mnist() is not None:
            return []
        remedy = "get it with: metaimpute data get fashion_mnist, or apt-get install dataset-fashion-mnist"
        return [Missing("Fashion-MNIST", tuple(map(str, places())), remedy)]

    def load(self, seed: int) -> TaskData:
        folder = find_fashion_mnist()
        if folder is None:
            raise MissingData(self.missing())
        pools = {part: _pool(folder, part) for part in PARTS}
        return semi_supervised(
            pools["train"],
            pools["test"],
            labels=self.labels,
            validation=self.validation,
            classes=10,
            seed=seed,
            include_labelled=self.unlabelled_includes_labelled,
            source=f"Fashion-MNIST ({len(pools['test']):,} test images)",
        )

    def augmented(self, windows: Tensor, kind: ViewKind, generator: torch.Generator) -> Tensor:
        return replace(VIEWS, flip=self.flip).pixels(windows, kind, generator)

    def normalized(self, pixels: Tensor) -> Tensor:
        return VIEWS.normalized(pixels)

    def views_are(self) -> str:
        return str(replace(VIEWS, flip=self.flip))


def _pool(folder: Path, part: str) -> Pool:
    images, labels = (_file(folder, part, kind) for kind in ("images-idx3", "labels-idx1"))
    assert images is not None and labels is not None
    pixels, targets = read_idx(images)[:, None], read_idx(labels).long()
    if len(pixels) != len(targets) or pixels.shape[1:] != (1, SIDE, SIDE):
        raise TaskError(f"{images} and {labels} do not belong together")
    return Pool(pixels, targets, torch.arange(len(pixels)))

"""CIFAR-10 and CIFAR-100 (Krizhevsky, 2009) in the form torchvision keeps them (paper, section 5.3, Tables 2 and 5 to 10)."""

from __future__ import annotations

import pickle
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from ..batches import ViewKind
from ..batches.outputs import Classes
from ..ranges import Count, Natural, Share
from .base import Missing, MissingData, Pool, TaskData, TaskError, register_task
from .image_task import ImageTask
from .image_views import ImageViews
from .locate import data_folders, find
from .splits import semi_supervised

SIDE, CHANNELS = 32, 3


class _ArraysOnly(pickle.Unpickler):
    """Reads a pickle of plain values and arrays; anything else in it is refused, not run."""

    allowed: ClassVar = {
        ("numpy._core.multiarray", "_reconstruct"),
        ("numpy._core.numeric", "_frombuffer"),
        ("numpy", "ndarray"),
        ("numpy", "dtype"),
        ("_codecs", "encode"),
    }

    def find_class(self, module: str, name: str) -> Any:
        module = module.replace("numpy.core", "numpy._core")
        if (module, name) not in self.allowed:
            raise pickle.UnpicklingError(f"it holds {module}.{name}")
        return super().find_class(module, name)


def read_batch(path: Path, label_key: str) -> tuple[np.ndarray, list[int]]:
    """Pixels ``[n, 3, 32, 32]`` and labels of one file.

    Raises:
        TaskError: naming a file that is not what it should be.
    """
    try:
        with path.open("rb") as file:
            batch = _ArraysOnly(file, encoding="latin1").load()
        pixels = np.asarray(batch["data"], dtype=np.uint8).reshape(-1, CHANNELS, SIDE, SIDE)
        labels = [int(label) for label in batch[label_key]]
        if len(labels) != len(pixels):
            raise ValueError(f"{len(pixels)} images, {len(labels)} labels")
    except Exception as error:  # a damaged pickle can raise almost anything
        first = (str(error).splitlines() or [""])[0]
        raise TaskError(f"{path} is not a CIFAR file ({type(error).__name__}: {first}); download it again") from None
    return pixels, labels


@dataclass
class Cifar(ImageTask):
    """What the two data sets share: 50,000 training and 10,000 test images of 32 x 32 pixels.

    Labels are drawn by seed and balanced, validation images are the same for every seed. Weak views flip and shift by up
    to four pixels, strong ones add RandAugment and a cutout of 16 pixels.

    Args:
        labels: labelled images in all. validation: training images kept for choosing settings (5,000 in the paper).
        augment_probability: with which RandAugment applies each operation that it has drawn for a strong view.
        copies: strong versions of each image where the model is a frozen encoder; None: any number.
    """

    input_shape = (CHANNELS, SIDE, SIDE)
    folder: ClassVar[str]
    files: ClassVar[tuple[tuple[str, ...], str]]
    label_key: ClassVar[str]
    classes: ClassVar[int]
    views: ClassVar[ImageViews]

    labels: Natural = 1000
    validation: Natural = 5000
    augment_probability: Share = 1.0

    @property
    def output(self) -> Classes:
        return Classes(self.classes)

    @classmethod
    def found(cls) -> Path | None:
        """The folder of the data set, when it is complete."""
        return find(cls.folder, cls.files[1])

    def missing(self) -> list[Missing]:
        if self.found() is not None:
            return []
        looked = tuple(str(folder / self.folder) for folder in data_folders())
        return [Missing(f"{self.name} ({self.folder}/)", looked, f"get it with: metaimpute data get {self.name}")]

    def load(self, seed: int) -> TaskData:
        folder = self.found()
        if folder is None:
            raise MissingData(self.missing())
        names, last = self.files
        train, test = self._pool(folder, names), self._pool(folder, (last,))
        return semi_supervised(
            train,
            test,
            labels=self.labels,
            validation=self.validation,
            classes=self.classes,
            seed=seed,
            include_labelled=self.unlabelled_includes_labelled,
            source=f"{self.name} ({len(test):,} test images)",
        )

    def _pool(self, folder: Path, names: tuple[str, ...]) -> Pool:
        parts = [read_batch(folder / name, self.label_key) for name in names]
        images = torch.from_numpy(np.concatenate([pixels for pixels, _ in parts]))
        targets = torch.tensor([label for _, labels in parts for label in labels])
        return Pool(images, targets, torch.arange(len(images)))

    def augmented(self, windows: Tensor, kind: ViewKind, generator: torch.Generator) -> Tensor:
        return replace(self.views, probability=self.augment_probability).pixels(windows, kind, generator)

    def normalized(self, pixels: Tensor) -> Tensor:
        return self.views.normalized(pixels)

    def views_are(self) -> str:
        return str(replace(self.views, probability=self.augment_probability))


@register_task("cifar10")
@dataclass
class Cifar10(Cifar):
    """CIFAR-10: ten classes; the paper labels 250, 500 or 1,000 images.

    Args:
        labels: labelled images in all, balanced. validation: training images kept for choosing settings.
        augment_probability: with which RandAugment applies each operation that it has drawn for a strong view.
        copies: strong versions of each image where the model is a frozen encoder; None: any number.
    """

    folder = "cifar-10-batches-py"
    files = (tuple(f"data_batch_{number}" for number in range(1, 6)), "test_batch")
    label_key, classes = "labels", 10
    views = ImageViews((0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616))

    labels: Count = 250

    @property
    def label_names(self) -> list[str]:
        return ["aeroplane", "car", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "lorry"]


@register_task("cifar100")
@dataclass
class Cifar100(Cifar):
    """CIFAR-100: a hundred classes; the paper labels 500, 1,000 or 2,000 images.

    Args:
        labels: labelled images in all, balanced. validation: training images kept for choosing settings.
        augment_probability: with which RandAugment applies each operation that it has drawn for a strong view.
        copies: strong versions of each image where the model is a frozen encoder; None: any number.
    """

    folder = "cifar-100-python"
    files = (("train",), "test")
    label_key, classes = "fine_labels", 100
    views = ImageViews((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761))

    labels: Count = 500

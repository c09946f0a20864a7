"""Image files as a pool and as inputs: read, resized and decoded when asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from ..batches import ViewKind
from ..ranges import NonNegative, Share
from .base import Missing, MissingData, Pool, TaskError
from .decoded import Decoded
from .image_listing import LeftOut, class_folders, images_in, name_in, readable
from .image_task import ImageTask
from .image_views import ImageViews
from .locate import data_folders, expanded, locate_folder
from .quoting import how_many, shortened

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
Side = Annotated[int, Field(ge=8, le=4096)]
OWN = ("labelled", "unlabelled")  # folders of one's own images
ANNOTATIONS = "val_annotations.txt"


@dataclass(frozen=True)
class FilePool(Pool):
    """A pool of image files; batches of them are decoded by several threads.

    Attributes:
        inputs: paths. read: path to uint8 ``[3, h, w]``.
    """

    read: Decoded

    def take(self, index: Tensor) -> list[Any]:
        wanted: list[Any] = [self.inputs[i] for i in index.tolist()]
        found = self.read.several(wanted)
        return [self.read(path) if image is None else image for path, image in zip(wanted, found, strict=True)]

    def subset(self, index: Tensor) -> FilePool:
        targets = None if self.targets is None else self.targets[index]
        return FilePool([self.inputs[i] for i in index.tolist()], targets, self.ids[index], self.read)


def squares(images: Sequence[Tensor], side: int, rng: torch.Generator | None) -> Tensor:
    """One window of ``side`` pixels of each image, ``[n, 3, side, side]``: at a random place, or the centre without ``rng``."""
    found = []
    for image in images:
        top, left = (
            (room // 2 if rng is None else int(torch.randint(room + 1, (), generator=rng, device="cpu"))) if room else 0
            for room in (image.shape[1] - side, image.shape[2] - side)
        )
        found.append(image[:, top : top + side, left : left + side])
    return torch.stack(found)


def named_images(path: Path, left: LeftOut | None = None, root: Path | None = None) -> tuple[list[str], list[Path]]:
    """An image file, or every image in a folder, with its name: its path relative to the folder.

    Where the folder is, or lies in, one that holds ``labelled`` and ``unlabelled``, paths are relative to that one, as those of
    a run trained there are.

    Args:
        left: is told what is left out. root: a whole path that names are relative to, where it is known.

    Raises:
        TaskError: when there is none.
    """
    paths = [path] if path.is_file() else images_in(path, left)
    if not paths:
        raise TaskError(f"{path} holds no images")
    root, whole = root or root_of(path), [one.absolute() for one in paths]
    return [name_in(root, one) for one in whole], paths


def root_of(path: Path) -> Path:
    """The folder that names of images are relative to."""
    whole = path.absolute()
    own = next((one for one in (whole, *whole.parents) if all((one / part).is_dir() for part in OWN)), None)
    return own or (whole.parent if path.is_file() else whole)


def list_images(
    folder: Path, classes: list[str], training: str = "train", left: LeftOut | None = None
) -> tuple[list[Path], list[int]]:
    """Images of one part: a folder per class, or Tiny-ImageNet's list of ``file class ...`` lines beside ``images/``.

    Args:
        training: the folder that the classes were read from, for messages. left: is told what is left out.

    Raises:
        TaskError: naming what is not as it should be.
    """
    number = {name: place for place, name in enumerate(classes)}
    listing = folder / ANNOTATIONS
    paths: list[Path] = []
    targets: list[int] = []
    if listing.exists():
        for row, line in enumerate(listing.read_text().splitlines(), 1):
            words = line.split()
            if len(words) < 2 or words[1] not in number:
                raise TaskError(f"{listing}:{row}: not a file and one of the {len(classes)} classes of {training}/")
            paths.append(folder / "images" / words[0])
            targets.append(number[words[1]])
    else:
        folders = class_folders(folder, left)
        unknown = [name for name in folders if name not in number]
        if unknown:
            raise TaskError(f"{folder} holds classes that {training}/ does not have: {', '.join(unknown[:3])}")
        for name, place in number.items():
            files = images_in(folders[name], left) if name in folders else []
            paths += files
            targets += [place] * len(files)
    if not paths:
        raise TaskError(f"{folder} holds no images")
    return paths, targets


@dataclass
class ImageFileTask(ImageTask):
    """Base of the tasks whose inputs are image files in a folder.

    Args:
        folder: a name looked for where data is looked for, or a path.
        size: side of the network's input; images are resized so that the shorter side has it, and cropped to a square.
        flip: whether mirror images are views. cache_gb: decoded images are kept in memory up to so many gigabytes.
        augment_probability: with which RandAugment applies each operation that it has drawn for a strong view.
        copies: as in :class:`ImageTask`.
    """

    marker: ClassVar[str] = "train"

    folder: str = ""
    size: Side = 64
    flip: bool = True
    cache_gb: NonNegative = 1.0
    augment_probability: Share = 1.0

    @property
    def input_shape(self) -> tuple[int, ...]:  # type: ignore[override]  # of the size asked for
        return (3, self.size, self.size)

    def found(self) -> Path | None:
        """The folder, when it is here."""
        return locate_folder(self.folder, self.marker) if self.folder else None

    def here(self) -> Path:
        """The folder.

        Raises:
            MissingData: when it is not here.
        """
        folder = self.found()
        if folder is None:
            raise MissingData(self.missing())
        return folder

    def missing(self) -> list[Missing]:
        if self.found() is not None:
            return []
        absolute = expanded(self.folder).is_absolute()
        looked = (self.folder,) if absolute else tuple(str(folder / self.folder) for folder in data_folders())
        marker = f"{self.marker}/" if self.marker else ""
        return [Missing(f"images ({self.folder}/{marker})", looked, self.remedy())]

    def remedy(self) -> str:
        """How to get the folder."""
        raise TypeError(f"{type(self).__name__} does not define remedy()")

    def decoded(self) -> Decoded:
        """A reader of this task's images."""
        return Decoded(self.size, self.cache_gb * 1e9, self.found())

    def root_of(self, path: Path) -> Path:
        """The folder that names of new images in ``path`` are relative to."""
        return root_of(path)

    def read(self, path: Path) -> tuple[list[str], list[Tensor]]:
        """An image file, or every image in a folder; names are paths relative to the folder.

        Images that cannot be read are left out with a warning.
        """
        left = LeftOut()
        names, paths = named_images(path, left, self.root_of(path))
        read = Decoded(self.size, self.cache_gb * 1e9)
        self.read_warnings = []
        if path.is_file():
            return names, [read(path)]
        found = read.several(paths)
        bad = [name for name, image in zip(names, found, strict=True) if image is None]
        if len(bad) == len(paths):
            raise TaskError(f"none of the {len(paths):,} images in {path} can be read")
        if bad:
            self.read_warnings = [f"left out {how_many(len(bad), 'image')} that cannot be read: {shortened(bad)}"]
        self.read_warnings += [*left.said(readable(path.name) or str(path)), *read.doubts(path)]
        kept = [(name, image) for name, image in zip(names, found, strict=True) if image is not None]
        return [name for name, _ in kept], [image for _, image in kept]

    @property
    def _views(self) -> ImageViews:
        return ImageViews(MEAN, STD, flip=self.flip, probability=self.augment_probability)

    def windows(self, raw: Sequence[Tensor], kind: ViewKind, generator: torch.Generator) -> Tensor:
        return squares(raw, self.size, None if kind == "none" else generator)

    def augmented(self, windows: Tensor, kind: ViewKind, generator: torch.Generator) -> Tensor:
        return self._views.pixels(windows, kind, generator)

    def normalized(self, pixels: Tensor) -> Tensor:
        return self._views.normalized(pixels)

    def views_are(self) -> str:
        return f"{self.size} {self._views}"

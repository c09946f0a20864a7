"""Image files as a pool: read, resized and decoded by several threads when a batch asks for them, kept while memory allows."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .base import Pool, TaskError

SUFFIXES = frozenset((".jpeg", ".jpg", ".png", ".ppm", ".bmp", ".webp", ".tif", ".tiff"))
ANNOTATIONS = "val_annotations.txt"


def read_image(path: Path, side: int) -> Tensor:
    """uint8 ``[3, h, w]``, resized isotropically so that the shorter side has ``side`` pixels.

    Raises:
        TaskError: naming a file that cannot be read as an image.
    """
    try:
        with Image.open(path) as image:
            image.draft("RGB", (2 * side, 2 * side))
            colour = image.convert("RGB")
            factor = side / min(colour.size)
            if factor != 1:
                size = (max(round(colour.width * factor), side), max(round(colour.height * factor), side))
                colour = colour.resize(size, Image.Resampling.BILINEAR)
            return torch.from_numpy(np.array(colour)).permute(2, 0, 1).contiguous()
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise TaskError(f"{path} cannot be read as an image ({error})") from None


class Decoded:
    """Images that have been read, kept until they fill a number of bytes."""

    def __init__(self, side: int, limit: float) -> None:
        self.side, self.left = side, limit
        self.images: dict[Path, Tensor] = {}

    def __call__(self, path: Path) -> Tensor:
        known = self.images.get(path)
        if known is None:
            known = read_image(path, self.side)
            if known.nbytes <= self.left:
                self.left -= known.nbytes
                self.images[path] = known
        return known


@dataclass(frozen=True)
class FilePool(Pool):
    """A pool of image files; batches of them are decoded by several threads.

    Attributes:
        inputs: paths. read: path to uint8 ``[3, h, w]``.
    """

    read: Decoded

    def take(self, index: Tensor) -> list[Any]:
        wanted: list[Any] = [self.inputs[i] for i in index.tolist()]
        known = [self.read.images.get(path) for path in wanted]
        if all(image is not None for image in known):
            return known
        with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as readers:
            return list(readers.map(self.read, wanted))

    def subset(self, index: Tensor) -> FilePool:
        targets = None if self.targets is None else self.targets[index]
        return FilePool([self.inputs[i] for i in index.tolist()], targets, self.ids[index], self.read)


def squares(images: Sequence[Tensor], side: int, rng: torch.Generator | None) -> Tensor:
    """One window of ``side`` pixels of each image, ``[n, 3, side, side]``: at a random place, or the centre without ``rng``."""
    found = []
    for image in images:
        top, left = (
            (room // 2 if rng is None else int(torch.randint(room + 1, (), generator=rng))) if room else 0
            for room in (image.shape[1] - side, image.shape[2] - side)
        )
        found.append(image[:, top : top + side, left : left + side])
    return torch.stack(found)


def classes_of(folder: Path) -> list[str]:
    """Names of the class folders under ``train/``, sorted: a class's number is its place here."""
    return sorted(entry.name for entry in os.scandir(folder / "train") if entry.is_dir())


def _images_in(folder: Path) -> list[Path]:
    files: Iterable[tuple[str, list[str], list[str]]] = os.walk(folder)
    paths = [Path(where, name) for where, _, names in files for name in names]
    return sorted(path for path in paths if path.suffix.lower() in SUFFIXES)


def list_images(folder: Path, classes: list[str]) -> tuple[list[Path], list[int]]:
    """Images of one part: a folder per class, or Tiny-ImageNet's list of ``file class ...`` lines beside ``images/``.

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
                raise TaskError(f"{listing}:{row}: not a file and one of the {len(classes)} classes of train/")
            paths.append(folder / "images" / words[0])
            targets.append(number[words[1]])
    else:
        unknown = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and entry.name not in number)
        if unknown:
            raise TaskError(f"{folder} holds classes that train/ does not have: {', '.join(unknown[:3])}")
        for name, place in number.items():
            files = _images_in(folder / name)
            paths += files
            targets += [place] * len(files)
    if not paths:
        raise TaskError(f"{folder} holds no images")
    return paths, targets

"""Images as they are after decoding and resizing: held in memory, and kept on disk until a file changes.

On disk they lie in ``images`` of the user's cache (``METAIMPUTE_CACHE``), a file for each folder, side and version of the reader.
An image is found by its path in the folder, and holds as long as its file has the same size and time of change.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from .base import TaskError
from .image_listing import name_in
from .image_reading import decode
from .kept import Kept, digest
from .locate import cache_folder
from .quoting import how_many, shortened

READER = 1  # to be raised where decode() makes other pixels of a file
HEADER = struct.Struct("<qqqqB")  # size and time of change of the file, height and width, whether white shows through
TOGETHER = 256


def in_threads(function: Any, paths: Iterable[Path]) -> list[Any]:
    """``function`` of every path, by several threads, in order."""
    with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as readers:
        return list(readers.map(function, paths))


class Decoded:
    """Images that have been read, held in memory until they fill a number of bytes.

    Args:
        side: pixels of the shorter side. limit: bytes held in memory; worker processes share it out among them.
        folder: in which the images lie that are also kept on disk; None: none are.

    Attributes:
        transparent: those that white shows through.
    """

    def __init__(self, side: int, limit: float, folder: Path | None = None) -> None:
        self.side, self.limit, self.held = side, limit, 0
        self.images: dict[Path, Tensor] = {}
        self.transparent: set[Path] = set()
        self.folder = None if folder is None else folder.absolute()
        self._kept = None if self.folder is None else Kept(_file(self.folder, side), renewed=True)

    def __call__(self, path: Path) -> Tensor:
        """uint8 ``[3, h, w]``.

        Raises:
            TaskError: naming a file that cannot be read as an image.
        """
        image = self.several([path])[0]
        return self._decoded(path)[0] if image is None else image

    def several(self, paths: Sequence[Path]) -> list[Tensor | None]:
        """Images in order, None where one cannot be read."""
        found = {path: self.images[path] for path in paths if path in self.images}
        absent = [path for path in dict.fromkeys(paths) if path not in found]
        for start in range(0, len(absent), TOGETHER):
            found |= self._read(absent[start : start + TOGETHER])
        return [found.get(path) for path in paths]

    def readable(self, paths: Sequence[Path]) -> list[bool]:
        """Which can be read; they are held as far as there is room."""
        parts = (paths[start : start + TOGETHER] for start in range(0, len(paths), TOGETHER))
        return [image is not None for part in parts for image in self.several(part)]

    def doubts(self, folder: Path) -> tuple[str, ...]:
        """A line about images that are partly transparent, where there are any."""
        names = sorted(name_in(folder, path) for path in self.transparent)
        return (
            (f"read {how_many(len(names), 'partly transparent image')} on white: {shortened(names)}",) if names else ()
        )

    def _read(self, paths: list[Path]) -> dict[Path, Tensor]:
        """Images from disk, decoded where they are not kept or have changed."""
        stamps = {path: _stamp(path) for path in paths} if self._kept is not None else {}
        keys = {path: key for path in stamps if (key := self._key(path)) is not None}
        values = self._kept.get(list(keys.values())) if self._kept is not None and keys else {}
        known = {path: value for path, key in keys.items() if (value := _unpacked(values.get(key), stamps[path]))}
        rest = [path for path in paths if path not in known]
        read = zip(rest, in_threads(self._or_none, rest), strict=True)
        new = {path: image for path, image in read if image is not None}
        if self._kept is not None and (put := {keys[p]: _packed(new[p], stamps[p]) for p in new if p in keys}):
            self._kept.put(put)
        for path, (image, seen_through) in (known | new).items():
            self._hold(path, image, seen_through)
        return {path: image for path, (image, _) in (known | new).items()}

    def _key(self, path: Path) -> bytes | None:
        assert self.folder is not None
        absolute = path.absolute()
        return digest(os.fsencode(absolute.relative_to(self.folder))) if absolute.is_relative_to(self.folder) else None

    def _hold(self, path: Path, image: Tensor, seen_through: bool) -> None:
        if seen_through:
            self.transparent.add(path)
        worker = get_worker_info()
        if self.held + image.nbytes <= self.limit / (1 if worker is None else worker.num_workers):
            self.held += image.nbytes
            self.images[path] = image

    def _decoded(self, path: Path) -> tuple[Tensor, bool]:
        return decode(path, self.side)

    def _or_none(self, path: Path) -> tuple[Tensor, bool] | None:
        try:
            return self._decoded(path)
        except TaskError:
            return None


def _file(folder: Path, side: int) -> Path:
    """Where the images of a folder are kept: a readable name, and what tells it from others."""
    stamp = digest(os.fsencode(folder), f"{side} {READER} {PIL.__version__}".encode()).hex()
    name = re.sub(r"[^A-Za-z0-9._-]", "_", folder.name)[:40]
    return cache_folder() / "images" / f"{name}-{side}-{stamp}.sqlite"


def _stamp(path: Path) -> tuple[int, int]:
    """Size and time of change of a file; of one that is not there, nothing."""
    try:
        state = path.stat()
    except OSError:
        return -1, -1
    return state.st_size, state.st_mtime_ns


def _packed(read: tuple[Tensor, bool], stamp: tuple[int, int]) -> bytes:
    image, seen_through = read
    return HEADER.pack(*stamp, *image.shape[1:], seen_through) + image.numpy().tobytes()


def _unpacked(value: bytes | None, stamp: tuple[int, int]) -> tuple[Tensor, bool] | None:
    """A kept image, and whether white shows through; None where there is none, or one of another file or a damaged one."""
    if value is None or len(value) < HEADER.size:
        return None
    size, changed, height, width, seen_through = HEADER.unpack_from(value)
    if (size, changed) != stamp or len(value) != HEADER.size + 3 * height * width:
        return None
    pixels = np.frombuffer(value, dtype=np.uint8, offset=HEADER.size).copy()
    return torch.from_numpy(pixels).view(3, height, width), bool(seen_through)

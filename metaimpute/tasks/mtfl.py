"""MTFL (Zhang, Luo, Loy and Tang, ECCV 2014): five landmarks on 10,000 web faces; its 2,995 test faces are AFLW's.

The files are not cropped alike, and a window around a face's own landmarks would tell the test set's answers. So the window
depends on nothing but the size of the image file: each source was cut by one face detector at one scale, and a fixed window
brings its faces to the scale of the test faces, which are seen whole. Images of any other size are seen whole, too.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PureWindowsPath

import torch

from ..ranges import Natural
from .base import Missing, MissingData, Pool, TaskData, TaskError, register_task
from .image_reading import opened
from .landmarks import POINTS, LandmarkTask, Window, read_faces
from .locate import data_folders, find

WINDOWS: dict[tuple[int, int], Window] = {
    (250, 250): (57.0, 66.0, 197.0, 206.0),  # lfw_5590
    (400, 400): (40.0, 40.0, 360.0, 360.0),  # net_7876
    (160, 216): (29.0, 29.0, 131.0, 131.0),  # net_7876
}


def find_mtfl() -> Path | None:
    return find("MTFL", "training.txt")


def read_list(folder: Path, name: str) -> Pool:
    """The faces of ``training.txt`` or ``testing.txt``: ``path x1..x5 y1..y5 gender smile glasses pose`` a line.

    Raises:
        TaskError: naming the list, and the line that is not of this form.
    """
    listing = folder / name
    paths, points = [], []
    try:
        lines = listing.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise TaskError(f"{listing} cannot be read ({error})") from None
    for number, line in enumerate(lines, 1):
        words = line.split()
        if not words:
            continue
        try:
            values = [float(word) for word in words[1 : 1 + 2 * POINTS]]
            points.append([*zip(values[:POINTS], values[POINTS:], strict=True)])
        except ValueError:
            raise TaskError(f"{listing}:{number}: not 'path x1..x5 y1..y5 gender smile glasses pose'") from None
        paths.append(folder / PureWindowsPath(words[0]).as_posix())
    if not paths:
        raise TaskError(f"{listing} names no faces")
    return read_faces(paths, torch.tensor(points), [window_of(path) for path in paths])


def window_of(path: Path) -> Window | None:
    """The fixed window for files of this size; None for the whole image.

    Raises:
        TaskError: naming a file that cannot be read as an image.
    """
    with opened(path) as image:
        return WINDOWS.get(image.size)


@register_task("mtfl")
@dataclass
class MTFL(LandmarkTask):
    """Five facial landmarks, trained on web faces and tested on AFLW's.

    Args:
        labels: labelled faces in all; 0 for a ``label_share`` of the training faces (the paper: 0.01, 0.02, 0.05).
        validation: training faces kept for choosing settings, the same for every seed.
        shift: largest shift of a view in pixels of 60. flip: whether mirror images are views.
        rotate, zoom: largest rotation in degrees and change of scale of strong views. cutout: side of their hole in pixels.
    """

    validation: Natural = 500

    def missing(self) -> list[Missing]:
        if find_mtfl() is not None:
            return []
        looked = tuple(str(folder / "MTFL") for folder in data_folders())
        remedy = (
            "get MTFL.zip from mmlab.ie.cuhk.edu.hk/projects/TCDCN.html and unpack it there, so that training.txt, testing.txt "
            "and the folders AFLW, lfw_5590 and net_7876 lie in it"
        )
        return [Missing("MTFL (MTFL/)", looked, remedy)]

    def load(self, seed: int) -> TaskData:
        folder = find_mtfl()
        if folder is None:
            raise MissingData(self.missing())
        train, test = read_list(folder, "training.txt"), read_list(folder, "testing.txt")
        return self.split(train, test, self.validation, seed, f"MTFL ({len(test):,} AFLW test faces)")

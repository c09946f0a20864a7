"""AFLW in the release that the paper trains on (section 5.2, Table 1): 10,122 training and 2,991 test faces, five landmarks.

Koestinger et al., ICCV workshops 2011; the release with 64-bit .mat files of Jakab et al., NeurIPS 2018. Its images are face
crops already, so the window of a face is the whole image, whatever its sides (the released code of the paper does the same).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from ..ranges import Natural
from .base import Missing, MissingData, Pool, TaskData, TaskError, register_task
from .landmarks import POINTS, LandmarkTask, read_faces
from .locate import data_folders, find

FOLDERS = ("aflw_release-2", "aflw", "AFLW")
MARKER = "aflw_train_images.txt"


def find_aflw() -> Path | None:
    """The first of the usual folder names that holds the training list."""
    return next((found for name in FOLDERS if (found := find(name, MARKER)) is not None), None)


def read_part(folder: Path, part: str) -> Pool:
    """The faces of ``train`` or ``test``.

    Raises:
        TaskError: naming the file that is missing or not what it should be.
    """
    from scipy.io import loadmat

    listing, keypoints = folder / f"aflw_{part}_images.txt", folder / f"aflw_{part}_keypoints.mat"
    try:
        names = [line.strip() for line in listing.read_text().splitlines() if line.strip()]
        points = torch.tensor(loadmat(str(keypoints))["gt"], dtype=torch.float32)
    except Exception as error:  # a damaged .mat file can raise almost anything
        raise TaskError(f"{listing} and {keypoints.name} cannot be read ({type(error).__name__}: {error})") from None
    if points.shape != (len(names), POINTS, 2):
        raise TaskError(f"{keypoints}: gt has shape {tuple(points.shape)} for {len(names)} images of {listing.name}")
    return read_faces([folder / "output" / name for name in names], points.flip(-1), [None] * len(names))


@register_task("aflw")
@dataclass
class AFLW(LandmarkTask):
    """Five facial landmarks on AFLW, the paper's regression task.

    Args:
        labels: labelled faces in all; 0 for a ``label_share`` of the training faces (the paper: 0.01, 0.02, 0.05).
        validation: the last so many rows of the training list are kept for validation (10%).
        shift: largest shift of a view in pixels of 60. flip: whether mirror images are views.
        rotate, zoom: largest rotation in degrees and change of scale of strong views. cutout: side of their hole in pixels.
    """

    validation: Natural = 1012

    def missing(self) -> list[Missing]:
        if find_aflw() is not None:
            return []
        looked = tuple(str(folder / FOLDERS[0]) for folder in data_folders())
        remedy = (
            "get aflw_release-2.zip from github.com/tomasjakab/imm and unpack it there, so that aflw_{train,test}_images.txt, "
            "aflw_{train,test}_keypoints.mat and output/ lie in it; or use the task mtfl, whose test faces are AFLW's"
        )
        return [Missing("AFLW (aflw_release-2/)", looked, remedy)]

    def load(self, seed: int) -> TaskData:
        folder = find_aflw()
        if folder is None:
            raise MissingData(self.missing())
        train, test = read_part(folder, "train"), read_part(folder, "test")
        if self.validation >= len(train):
            raise TaskError(f"validation: {self.validation} asked, but there are only {len(train)} training faces")
        held = torch.arange(len(train) - self.validation, len(train))
        return self.split(train, test, held, seed, f"AFLW ({len(test):,} test faces)")

"""Five facial landmarks: what the AFLW and MTFL tasks share (paper, section 5.2 and appendix A.1).

A face is a square window of its image, grey, 60 x 60 pixels in [0, 1]. Points are in pixels of that input, origin at the
left top corner, in the order left eye, right eye, nose, left and right corner of the mouth as they lie in the image, x and y
in turn. Targets are standardised with mean and deviation over the labelled examples, as in the paper's released code; the
task's output turns them back into pixels (``task.output.points``).
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ..batches import ViewKind
from ..batches.motion import LabelMotion
from ..batches.outputs import Landmarks
from ..engine.pytree import Tree
from ..ranges import Natural, NonNegative, Share
from .base import Pool, Task, TaskData, TaskError
from .image_files import named_images
from .image_reading import opened
from .image_views import square_holes
from .splits import semi_supervised

SIDE = 60
POINTS = 5
PARTS = ("left_eye", "right_eye", "nose", "left_mouth_corner", "right_mouth_corner")
MIRRORED = (1, 0, 2, 4, 3)  # which point of the original takes each place in the mirror image
Window = tuple[float, float, float, float]  # left, top, right, bottom in pixels of the image file


def read_face(path: Path, window: Window | None) -> tuple[np.ndarray, Window]:
    """Grey pixels ``[60, 60]`` of a window of an image file, and the window; None is the whole image.

    Raises:
        TaskError: naming a file that cannot be read as an image.
    """
    with opened(path) as image:
        box = window or (0.0, 0.0, float(image.width), float(image.height))
        grey = image.convert("L").resize((SIDE, SIDE), Image.Resampling.BILINEAR, box=box)
        return np.asarray(grey), box


def read_faces(paths: Sequence[Path], points: Tensor, windows: Sequence[Window | None]) -> Pool:
    """A pool of faces with their points in pixels of the input, not standardised.

    Args:
        points: ``[n, 5, 2]`` as (x, y) in pixels of the files.
    """
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as readers:
        faces = list(readers.map(read_face, paths, windows))
    pixels = torch.from_numpy(np.stack([face for face, _ in faces]))[:, None]
    boxes = torch.tensor([box for _, box in faces])
    scaled = (points - boxes[:, None, :2]) * SIDE / (boxes[:, None, 2:] - boxes[:, None, :2])
    return Pool(pixels, scaled.float().flatten(1), torch.arange(len(pixels)))


@dataclass(frozen=True)
class Placement:
    """Where each output pixel comes from: input position = ``matrix`` @ output position + ``offset``, centre 0, sides at 1.

    Attributes:
        matrix: ``[n, 2, 2]``. offset: ``[n, 2]``. mirrored: ``[n]``, whether the matrix swaps left and right.
    """

    matrix: Tensor
    offset: Tensor
    mirrored: Tensor

    def images(self, images: Tensor) -> Tensor:
        """``[n, 1, side, side]`` sampled bilinearly; what lies outside is reflected."""
        theta = torch.cat([self.matrix, self.offset[:, :, None]], 2).to(images)
        grid = F.affine_grid(theta, list(images.shape), align_corners=False)
        return F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)

    def motion(self, output: Landmarks) -> LabelMotion:
        """How standardised labels move: points by the inverse map, and the eyes and mouth corners change names in a mirror."""
        n, half = len(self.matrix), SIDE / 2
        back = torch.linalg.inv(self.matrix)
        names = torch.eye(POINTS).expand(n, -1, -1)
        names = torch.where(self.mirrored[:, None, None], names[:, MIRRORED, :], names)
        matrix = torch.einsum("npq,nij->npiqj", names, back).reshape(n, 2 * POINTS, 2 * POINTS)
        centre = torch.full((2,), half)
        moved = centre - torch.einsum("nij,nj->ni", back, centre + half * self.offset)
        offset = moved.repeat(1, POINTS)
        if not output.mean:
            return LabelMotion(matrix, offset)
        mean, std = torch.tensor(output.mean), torch.tensor(output.std)
        return LabelMotion(matrix * std / std[:, None], (matrix @ mean + offset - mean) / std)


@dataclass
class LandmarkTask(Task):
    """Base of the landmark tasks; a concrete one reads its files into pools of faces.

    Args:
        labels: labelled faces in all; 0 for a ``label_share`` of the training faces (the paper: 0.01, 0.02, 0.05).
        shift: largest shift of a view in pixels of 60. flip: whether mirror images are views.
        rotate, zoom: largest rotation in degrees and change of scale of strong views. cutout: side of their hole in pixels.
            Strong views are for methods that ask for them, FixMatch's kind; those of the paper on landmarks (SL, PL, MT and
            their L2I) train on weak ones, so its recipes leave these three alone.
    """

    input_kind = "image"
    input_shape = (1, SIDE, SIDE)

    labels: Natural = 0
    label_share: Share = 0.05
    shift: Natural = 4
    flip: bool = False
    rotate: NonNegative = 15.0
    zoom: Share = 0.1
    cutout: Natural = 15
    _output: Landmarks = field(default=Landmarks(2 * POINTS), init=False, repr=False)

    @property
    def output(self) -> Landmarks:
        """Before :meth:`load` the points are not standardised."""
        return self._output

    @property
    def label_names(self) -> list[str]:
        """``left_eye_x`` and so on; coordinates are pixels of the network's input, 60 x 60."""
        return [f"{part}_{axis}" for part in PARTS for axis in "xy"]

    def read(self, path: Path) -> tuple[list[str], Tensor]:
        """An image of a face, cropped to it, or a folder of such."""
        names, files = named_images(path)
        return names, torch.from_numpy(np.stack([read_face(file, None)[0] for file in files]))[:, None]

    def learnt(self) -> dict[str, Any]:
        return super().learnt() | {"mean": self._output.mean, "std": self._output.std}

    def relearn(self, known: dict[str, Any], folder: Path) -> None:
        self._output = Landmarks(2 * POINTS, mean=tuple(known["mean"]), std=tuple(known["std"]))

    def check(self) -> None:
        if not self.labels and not self.label_share:
            raise TaskError("labels: give a number of labelled faces, or a label_share above 0")
        if self.shift > SIDE // 2 or self.cutout > SIDE:
            raise TaskError(f"shift: at most half the side, and a cutout of at most the side, of {SIDE} pixels")
        if self.zoom > 0.9:
            raise TaskError(f"zoom: at most 0.9, not {self.zoom:g}")

    def split(self, train: Pool, test: Pool, validation: int | Tensor, seed: int, source: str) -> TaskData:
        """Pools with standardised targets."""
        data = semi_supervised(
            train,
            test,
            labels=self.labels,
            label_share=self.label_share,
            validation=validation,
            classes=None,
            seed=seed,
            include_labelled=self.unlabelled_includes_labelled,
            source=source,
        )
        known = data.labelled.targets
        assert known is not None
        std = known.std(0, correction=0).clamp_min(1.0)  # a handful of labels may agree by chance: one pixel at least
        self._output = Landmarks(2 * POINTS, mean=tuple(known.mean(0).tolist()), std=tuple(std.tolist()))
        pools = (data.labelled, data.unlabelled, data.validation, data.test)
        labelled, unlabelled, held, tested = map(self._standardized, pools)
        return TaskData(labelled, unlabelled, held, tested, source)

    def _standardized(self, pool: Pool) -> Pool:
        assert pool.targets is not None
        return dataclasses.replace(pool, targets=self._output.standardized(pool.targets))

    def view(self, raw: Tensor, kind: ViewKind, generator: torch.Generator) -> Tree:
        return self.moved_view(raw, kind, generator)[0]

    def moved_view(self, raw: Tensor, kind: ViewKind, generator: torch.Generator) -> tuple[Tree, LabelMotion | None]:
        """Pixels in [0, 1] and how the labels move.

        weak: a shift by whole pixels, and a mirror image if ``flip``. strong: also rotation, scale, contrast and a hole.
        """
        images = raw.float() / 255
        if kind == "none":
            return images, None
        placement = self.placement(len(raw), kind == "strong", generator)
        images = placement.images(images)
        if kind == "strong":
            contrast = 0.5 + torch.rand(len(raw), 1, 1, 1, generator=generator, device="cpu")
            images = _hole(images * contrast, generator, self.cutout)
        return images, placement.motion(self.output)

    def placement(self, n: int, strong: bool, generator: torch.Generator) -> Placement:
        offset = torch.randint(-self.shift, self.shift + 1, (n, 2), generator=generator, device="cpu") * (2 / SIDE)
        mirrored = torch.rand(n, generator=generator, device="cpu") < (0.5 if self.flip else 0.0)
        angle, scale = torch.zeros(n), torch.ones(n)
        if strong:
            draw = 2 * torch.rand(n, 2, generator=generator, device="cpu") - 1
            angle, scale = draw[:, 0] * math.radians(self.rotate), 1 + draw[:, 1] * self.zoom
        cosine, sine, side = angle.cos() * scale, angle.sin() * scale, torch.where(mirrored, -1.0, 1.0)
        matrix = torch.stack([torch.stack([cosine * side, -sine], -1), torch.stack([sine * side, cosine], -1)], 1)
        return Placement(matrix, offset, mirrored)


def _hole(images: Tensor, rng: torch.Generator, size: int) -> Tensor:
    """One square per image at the image's mean brightness."""
    return torch.where(square_holes(images, rng, size), images.mean((1, 2, 3), keepdim=True), images)

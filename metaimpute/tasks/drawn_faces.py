"""Drawn faces: grey caricatures with five known landmarks, for trying out landmark systems where no photographs are.

Nothing is downloaded, and nothing here says how a method does on photographs. A face is a shaded ellipse with eyes, nose
and mouth at jittered places, under random pose, size, light and clutter; some eyes are covered by a bar.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..ranges import Count, Natural
from ..streams import Stream
from .base import Pool, TaskData, register_task
from .landmarks import POINTS, SIDE, LandmarkTask
from .splits import generator

TEST = 500
LAYOUT = torch.tensor(
    [[-0.4, -0.35], [0.4, -0.35], [0.0, 0.1], [-0.3, 0.5], [0.3, 0.5]]
)  # of a head with half-height 1


def draw_faces(count: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """``count`` faces as bytes ``[n, 1, 60, 60]``, and their points ``[n, 5, 2]`` as (x, y) in pixels."""

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(count, *shape, generator=rng, device="cpu")

    size, angle = uniform(0.3, 0.4) * SIDE, uniform(-15, 15) * math.pi / 180
    centre = SIDE / 2 + uniform(-4, 4, 2)
    shape = LAYOUT + uniform(-0.07, 0.07, POINTS, 2)
    shape[:, 2:, 0] += uniform(-0.25, 0.25)[:, None]  # the head turns: nose and mouth move against the outline
    turn = torch.stack([torch.stack([angle.cos(), -angle.sin()], -1), torch.stack([angle.sin(), angle.cos()], -1)], 1)
    points = centre[:, None] + size[:, None, None] * torch.einsum("nij,npj->npi", turn, shape)

    at = torch.arange(SIDE) + 0.5
    grid = torch.stack(torch.meshgrid(at, at, indexing="xy"), -1)  # [side, side, 2] as (x, y)
    local = torch.einsum("nji,nhwj->nhwi", turn, grid - centre[:, None, None]) / size[:, None, None, None]

    def blob(place: Tensor, width: Tensor | float, height: Tensor | float) -> Tensor:
        """Soft ellipse around points of the head, ``[n, side, side]`` in [0, 1]."""
        scale = torch.stack([torch.as_tensor(width).expand(count), torch.as_tensor(height).expand(count)], -1)
        return (-(((local - place[:, None, None]) / scale[:, None, None]) ** 2).sum(-1)).exp()

    light = uniform(-0.4, 0.4, 2)
    image = uniform(0.1, 0.9, 1, 1) + 0.25 * (local * light[:, None, None]).sum(-1)
    clutter = torch.nn.functional.interpolate(uniform(-0.35, 0.35, 1, 6, 6), SIDE, mode="bilinear")[:, 0]
    outline = ((local / torch.tensor([0.8, 1.05])) ** 2).sum(-1)
    head = torch.sigmoid(12 * (1 - outline))
    skin = uniform(0.35, 0.85, 1, 1) + 0.3 * (local * light[:, None, None]).sum(-1)
    image = head * skin + (1 - head) * (image + clutter)
    ink = uniform(0.25, 0.6, 1, 1)
    for eye in (0, 1):
        image = image - ink * blob(shape[:, eye], uniform(0.13, 0.2), uniform(0.07, 0.13))
    image = image - 0.7 * ink * blob(shape[:, 2], 0.09, 0.12)
    middle, half = (shape[:, 3] + shape[:, 4]) / 2, (shape[:, 4] - shape[:, 3]).norm(dim=-1) / 2
    image = image - ink * blob(middle, half, uniform(0.05, 0.12))
    covered = torch.rand(count, generator=rng, device="cpu") < 0.15
    bar = (local[..., 1] + 0.35).abs() < 0.12
    image = torch.where(covered[:, None, None] & bar & (outline < 1.2), torch.full_like(image, 0.15), image)
    noise = 0.04 * torch.randn(count, SIDE, SIDE, generator=rng, device="cpu")
    return (255 * (image + noise).clamp(0, 1)).to(torch.uint8)[:, None], points


@register_task("drawn_faces")
@dataclass
class DrawnFaces(LandmarkTask):
    """Caricatures with five landmarks, drawn here: 500 test faces, nothing to download.

    Args:
        faces: training faces drawn, the same for every seed. labels, label_share: how many of them are labelled.
        validation: training faces kept for choosing settings.
        shift: largest shift of a view in pixels of 60. flip: whether mirror images are views.
        rotate, zoom: largest rotation in degrees and change of scale of strong views. cutout: side of their hole in pixels.
    """

    faces: Count = 2000
    validation: Natural = 200

    def load(self, seed: int) -> TaskData:
        pools = []
        for stream, count in ((Stream.FACES, self.faces), (Stream.TEST_FACES, TEST)):
            images, points = draw_faces(count, generator(0, stream))
            pools.append(Pool(images, points.flatten(1), torch.arange(count)))
        return self.split(pools[0], pools[1], self.validation, seed, "drawn faces")

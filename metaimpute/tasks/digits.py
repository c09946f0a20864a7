"""scikit-learn's handwritten digits: 1,797 real 8 x 8 grey images of ten classes, bundled, no download."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..batches import ViewKind
from ..batches.outputs import Classes
from ..ranges import Count, Natural
from ..streams import Stream
from .base import Pool, Task, TaskData, register_task
from .image_views import cutout
from .splits import balanced_choice, generator, semi_supervised, without

TEST = 500


def affine_view(images: Tensor, rng: torch.Generator, *, shift: float, rotate: float, zoom: float) -> Tensor:
    """A random shift, rotation and zoom of every image, resampled bilinearly with zero padding.

    Args:
        images: ``[n, 1, h, w]``. shift: largest translation in pixels. rotate: largest angle in degrees.
        zoom: largest relative change of scale.
    """
    n, side = len(images), images.shape[-1]
    draw = 2 * torch.rand(n, 4, generator=rng, device="cpu") - 1
    angle = draw[:, 0] * math.radians(rotate)
    scale = 1 + draw[:, 1] * zoom
    matrix = torch.stack(
        [
            torch.stack([angle.cos() * scale, -angle.sin() * scale, draw[:, 2] * 2 * shift / side], -1),
            torch.stack([angle.sin() * scale, angle.cos() * scale, draw[:, 3] * 2 * shift / side], -1),
        ],
        1,
    ).to(images)
    grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)


@register_task("digits")
@dataclass
class Digits(Task):
    """Handwritten digits (scikit-learn, 8 x 8): few labels, real images, minutes on a CPU.

    500 test images and the validation images are the same for every seed; labels are drawn by seed, balanced over the
    ten classes. Weak views shift by up to one pixel; strong views also rotate, zoom, change contrast and cut out.
    """

    input_kind = "image"
    input_shape = (1, 8, 8)

    labels: Count = 40
    validation: Natural = 200

    @property
    def output(self) -> Classes:
        return Classes(10)

    @property
    def label_names(self) -> list[str]:
        return [str(digit) for digit in range(10)]

    def load(self, seed: int) -> TaskData:
        from sklearn.datasets import load_digits

        pixels, digits = load_digits(return_X_y=True)
        images = torch.tensor(pixels, dtype=torch.float32).view(-1, 1, 8, 8) / 16.0
        targets = torch.tensor(digits)
        pool = Pool(images, targets, torch.arange(len(images)))
        test = balanced_choice(targets, TEST, generator(0, Stream.TEST), 10, "test")
        return semi_supervised(
            pool.subset(without(len(pool), test)), pool.subset(test), labels=self.labels, validation=self.validation,
            classes=10, seed=seed, include_labelled=self.unlabelled_includes_labelled, source="scikit-learn digits",
        )  # fmt: skip

    def view(self, raw: Tensor, kind: ViewKind, generator: torch.Generator) -> Tensor:
        if kind == "none":
            return raw
        if kind == "weak":
            return affine_view(raw, generator, shift=1.0, rotate=0.0, zoom=0.0)
        moved = affine_view(raw, generator, shift=1.5, rotate=25.0, zoom=0.2)
        contrast = 0.5 + torch.rand(len(raw), 1, 1, 1, generator=generator, device="cpu").to(raw)
        return cutout(moved * contrast, generator, 3, fill=0.0)

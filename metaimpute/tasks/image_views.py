"""Weak and strong views of a batch of images, in the setting of FixMatch (Sohn et al., NeurIPS 2020) and MixMatch.

weak: horizontal flip with probability one half, then a shift of up to an eighth of the side with reflected borders.
strong: the weak view, then RandAugment, then cutout of a square of half the side. Noise comes from the generator alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..batches import ViewKind
from .rand_augment import GREY, rand_augment


def flip_and_shift(images: Tensor, rng: torch.Generator, *, flip: bool, shift: int) -> Tensor:
    """A random mirror image, moved by up to ``shift`` pixels each way; what was outside is reflected.

    Args:
        images: ``[n, c, h, w]``, any type.
    """
    n, channels, height, width = images.shape
    if not n:
        return images
    mirrored = torch.rand(n, generator=rng, device="cpu") < 0.5 if flip else torch.zeros(n, dtype=torch.bool)
    down, right = torch.randint(-shift, shift + 1, (2, n), generator=rng, device="cpu")
    rows = _reflected(torch.arange(height) - down[:, None], height)
    columns = _reflected(torch.arange(width) - right[:, None], width)
    columns = torch.where(mirrored[:, None], width - 1 - columns, columns)
    place = (rows[:, :, None] * width + columns[:, None, :]).to(images.device)
    return images.flatten(2).gather(2, place.flatten(1)[:, None].expand(-1, channels, -1)).view_as(images)


def _reflected(index: Tensor, size: int) -> Tensor:
    """Positions outside ``range(size)`` mirrored at the border pixel, which is not repeated."""
    period = max(2 * size - 2, 1)
    index = index.remainder(period)
    return torch.minimum(index, period - index) if size > 1 else torch.zeros_like(index)


def square_holes(images: Tensor, rng: torch.Generator, size: int) -> Tensor:
    """Masks ``[n, 1, h, w]``, true in one square of ``size`` pixels per image, its centre anywhere in the image."""
    n, _, height, width = images.shape
    top = torch.randint(0, height, (n, 1, 1), generator=rng, device="cpu") - size // 2
    left = torch.randint(0, width, (n, 1, 1), generator=rng, device="cpu") - size // 2
    rows, columns = torch.arange(height)[None, :, None], torch.arange(width)[None, None, :]
    hole = (rows >= top) & (rows < top + size) & (columns >= left) & (columns < left + size)
    return hole[:, None].to(images.device)


def cutout(images: Tensor, rng: torch.Generator, size: int, fill: float = GREY) -> Tensor:
    """One square of ``size`` pixels per image filled with one value (DeVries and Taylor, 2017)."""
    return images.masked_fill(square_holes(images, rng, size), fill)


@dataclass(frozen=True)
class ImageViews:
    """Views of uint8 images as normalised floats.

    Attributes:
        mean, std: per channel, of pixels in [0, 1]. flip: whether mirror images are views.
        shift, hole: largest shift and side of the cutout, as shares of the shorter side.
        probability: with which RandAugment applies an operation that it has drawn.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    flip: bool = True
    shift: float = 1 / 8
    hole: float = 1 / 2
    probability: float = 1.0

    def __call__(self, images: Tensor, kind: ViewKind, rng: torch.Generator) -> Tensor:
        """``[n, c, h, w]`` uint8 to normalised float32 under a view."""
        return self.normalized(self.pixels(images, kind, rng))

    def pixels(self, images: Tensor, kind: ViewKind, rng: torch.Generator) -> Tensor:
        """``[n, c, h, w]`` uint8 under a view."""
        side = min(images.shape[-2:])
        if kind != "none":
            images = flip_and_shift(images, rng, flip=self.flip, shift=int(side * self.shift))
        if kind == "strong":
            images = cutout(rand_augment(images, rng, probability=self.probability), rng, int(side * self.hole))
        return images

    def normalized(self, images: Tensor) -> Tensor:
        mean, std = (torch.tensor(v, device=images.device)[:, None, None] for v in (self.mean, self.std))
        return images.float().div_(255).sub_(mean).div_(std)

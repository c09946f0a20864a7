"""RandAugment for a batch: every image draws its own operations and strengths, and images that share one are done together.

Cubuk et al., NeurIPS 2020, in FixMatch's form (Sohn et al., NeurIPS 2020, Table 12): two operations of fourteen, each with a
strength drawn anew from its range. FixMatch's released code applies each of the two with probability one half only, which
its paper does not say: ``probability``. The pixel arithmetic is torchvision's: ``blend`` mixes an image with what torchvision
makes of it at strength 0, geometric operations sample the nearest pixel and leave the centre where it is (the released code
shears about the left top corner, which is a shear about the centre and a shift). What comes in from outside the image is grey.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

GREY = 127
Operation = Callable[[Tensor, Tensor], Tensor]


def _pixels() -> Any:
    """torchvision's arithmetic, imported when it is first asked for: it takes longer to import than all else together."""
    from torchvision.transforms.v2 import functional

    return functional


def _column(values: Tensor, images: Tensor) -> Tensor:
    """A number for each image, beside the images."""
    return values[:, None, None, None].to(images.device)


def _enhance(extreme: Callable[[Tensor], Tensor]) -> Operation:
    """Blends towards the image at strength 0 of a torchvision adjustment, by a factor from 0.05 to 0.95."""

    def operation(images: Tensor, level: Tensor) -> Tensor:
        factor = _column(0.05 + 0.9 * level, images)
        return (images * factor + extreme(images) * (1 - factor)).clamp(0, 255).to(torch.uint8)

    return operation


def _posterize(images: Tensor, level: Tensor) -> Tensor:
    """Keeps the 4 to 8 highest bits."""
    dropped = 4 - (level * 5).long().clamp_max(4)
    return images & _column((256 - 2**dropped).to(torch.uint8), images)


def _solarize(images: Tensor, level: Tensor) -> Tensor:
    """Inverts pixels from a threshold on, 0 to 256."""
    least = _column((256 * level).ceil().to(torch.int16), images)  # of whole numbers, as pixels are
    return torch.where(images >= least, 255 - images, images)


def _affine(coefficients: Callable[[Tensor, float], tuple[tuple[Tensor | float, ...], ...]]) -> Operation:
    """Samples each image at ``A u + t`` for output coordinates u in [-1, 1]; the strength runs from -1 to 1 times its range."""

    def operation(images: Tensor, level: Tensor) -> Tensor:
        signed, (height, width) = 2 * level - 1, images.shape[-2:]
        rows = coefficients(signed, width / height)
        theta = torch.stack([torch.stack([torch.as_tensor(v).expand_as(signed) for v in row], -1) for row in rows], 1)
        grid = F.affine_grid(theta.to(images.device), list(images.shape), align_corners=False)
        moved = F.grid_sample(images.float() - GREY, grid, mode="nearest", align_corners=False)
        return (moved + GREY).round().to(torch.uint8)

    return operation


def _rotation(signed: Tensor, aspect: float) -> tuple[tuple[Tensor | float, ...], ...]:
    angle = signed * math.radians(30)
    return (angle.cos(), -angle.sin() / aspect, 0.0), (angle.sin() * aspect, angle.cos(), 0.0)


OPERATIONS: dict[str, Operation] = {
    "identity": lambda images, level: images,
    "autocontrast": lambda images, level: _pixels().autocontrast(images),
    "equalize": lambda images, level: _pixels().equalize(images),
    "brightness": _enhance(torch.zeros_like),
    "contrast": _enhance(lambda images: _pixels().adjust_contrast(images, 0.0)),
    "color": _enhance(lambda images: _pixels().adjust_saturation(images, 0.0)),
    "sharpness": _enhance(lambda images: _pixels().adjust_sharpness(images, 0.0)),
    "posterize": _posterize,
    "solarize": _solarize,
    "rotate": _affine(_rotation),
    "shear_x": _affine(lambda s, aspect: ((1.0, 0.3 * s / aspect, 0.0), (0.0, 1.0, 0.0))),
    "shear_y": _affine(lambda s, aspect: ((1.0, 0.0, 0.0), (0.3 * s * aspect, 1.0, 0.0))),
    "translate_x": _affine(lambda s, aspect: ((1.0, 0.0, 0.6 * s), (0.0, 1.0, 0.0))),
    "translate_y": _affine(lambda s, aspect: ((1.0, 0.0, 0.0), (0.0, 1.0, 0.6 * s))),
}


IDENTITY = list(OPERATIONS).index("identity")


def rand_augment(images: Tensor, rng: torch.Generator, count: int = 2, probability: float = 1.0) -> Tensor:
    """``count`` random operations on every image.

    Args:
        images: uint8, ``[n, 1 or 3, h, w]``. rng: decides operations and strengths.
        probability: with which an operation that an image has drawn is applied to it.
    """
    if not len(images):
        return images
    for _ in range(count):
        chosen = torch.randint(len(OPERATIONS), (len(images),), generator=rng, device="cpu")
        level = torch.rand(len(images), generator=rng, device="cpu")
        if probability < 1:
            chosen = chosen.where(torch.rand(len(images), generator=rng, device="cpu") < probability, IDENTITY)
        images = _each_by_its_own(images, chosen, level)
    return images


def _each_by_its_own(images: Tensor, chosen: Tensor, level: Tensor) -> Tensor:
    """The operation of that number on each image, those of one operation side by side."""
    order = chosen.argsort(stable=True)
    counts = chosen.bincount(minlength=len(OPERATIONS)).tolist()
    parts = zip(images.index_select(0, order.to(images.device)).split(counts), level[order].split(counts), strict=True)
    done = [
        operation(part, strength) if len(part) else part
        for operation, (part, strength) in zip(OPERATIONS.values(), parts, strict=True)
    ]
    return torch.cat(done).index_select(0, order.argsort().to(images.device))

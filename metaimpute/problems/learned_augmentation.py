"""Strengths of an image augmentation, learned: how far to shift, turn, zoom, and change contrast.

Benton et al. ("Learning invariances in neural networks", NeurIPS 2020) learn the ranges that transformations are drawn from by
the reparameterisation ``t = s * u``, u uniform in [-1, 1]; Hataya et al. ("Meta approach to data augmentation optimization", WACV
2022) learn strengths by the gradient of the validation loss through a training step. Here

    C_inner(theta, s) = C(theta, view(x, s * u))      C_outer = C_H(theta_k)

C is the base method's loss, of which the student's images are moved: labelled ones, and the strong view of unlabelled ones.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ..batches import Batch
from ..engine.pytree import Tree
from ..ranges import Positive
from .base import BilevelProblem, ProblemError, Sizes, register_problem

Strength = Literal["shift", "rotate", "zoom", "contrast"]
ALL: tuple[Strength, ...] = ("shift", "rotate", "zoom", "contrast")


def augmented(images: Tensor, strengths: Tree) -> Tensor:
    """Every image under a random move of its own, as a differentiable function of the strengths.

    Args:
        images: ``[n, channels, h, w]``. strengths: largest ``shift`` as a share of the side, ``rotate`` in radians, relative
            change of ``zoom``, and of ``contrast``; what is missing does not happen. Draws are of torch's global generator.
    """
    u = (2 * torch.rand(4, len(images), device="cpu") - 1).to(images)
    v = (2 * torch.rand(len(images), device="cpu") - 1).to(images)
    zero = images.new_zeros(())
    shift, rotate, zoom, contrast = (strengths.get(name, zero) for name in ALL)
    angle, scale = rotate * u[0], (zoom * u[1]).exp()
    rows = torch.stack([angle.cos() * scale, -angle.sin() * scale, 2 * shift * u[2]], -1)
    columns = torch.stack([angle.sin() * scale, angle.cos() * scale, 2 * shift * v], -1)
    grid = F.affine_grid(torch.stack([rows, columns], 1), list(images.shape), align_corners=False)
    moved = F.grid_sample(images, grid, align_corners=False, padding_mode="border")
    found: Tensor = moved * (contrast * u[3]).exp()[:, None, None, None]
    return found


@register_problem("learned_augmentation")
class LearnedAugmentation(BilevelProblem):
    """Strengths of shift, rotation, zoom and contrast, learned on held-out labels (Benton et al., 2020; Hataya et al., 2022).

    They come on top of the views that the base method asks for.

    Args:
        learn: which strengths are learned; there are no others. shift, rotate, zoom, contrast: where they begin: shares of the
            side, degrees, and two relative changes.
    """

    dealt_coupling = "whole"
    learn: tuple[Strength, ...] = ALL
    shift: Positive = 0.05
    rotate: Positive = 5.0
    zoom: Positive = 0.05
    contrast: Positive = 0.05

    def init_meta(self, sizes: Sizes) -> dict[str, Tensor]:
        if not self.learn:
            raise ProblemError(f"learn: name one of {', '.join(ALL)} at least")
        if len(sizes.inputs) != 3:
            raise ProblemError(
                f"learned_augmentation moves images, and the task's inputs have the shape {list(sizes.inputs)}"
            )
        start = {"shift": self.shift, "rotate": math.radians(self.rotate), "zoom": self.zoom, "contrast": self.contrast}
        return {name: torch.tensor(math.log(start[name]), device="cpu") for name in self.learn}

    def couple(self, meta: Tree, batch: Batch) -> Tree:
        """Strengths by name, each above 0."""
        return {name: value.exp() for name, value in meta.items()}

    def inner_loss(self, params: Tree, c: Tree, batch: Batch) -> Tensor:
        known: Any = batch.labelled.inputs
        moved = dataclasses.replace(batch, labelled=dataclasses.replace(batch.labelled, inputs=augmented(known, c)))
        if self.method.uses_unlabelled:
            strong: Any = batch.unlabelled.strong
            moved = dataclasses.replace(
                moved, unlabelled=dataclasses.replace(batch.unlabelled, strong=augmented(strong, c))
            )
        return self.method.loss(self.predict, params, moved)

    def measure(self, meta: Tree) -> dict[str, float]:
        """``strength_shift``, ``_rotate`` (in degrees), ``_zoom`` and ``_contrast``."""
        found = {f"strength_{name}": float(value.detach().exp()) for name, value in meta.items()}
        if "strength_rotate" in found:
            found["strength_rotate"] = math.degrees(found["strength_rotate"])
        return found

"""MixUp: train on convex combinations of two examples and of their labels (Zhang et al., ICLR 2018)."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..batches import Batch, Imputation, Unlabelled
from ..batches.outputs import Classes, Output
from ..engine.pytree import Tree
from ..ranges import NonNegative, Positive
from .base import Method, MethodError, Predict, concatenate, register_method


class Mixing(NamedTuple):
    """Row i becomes ``share[i] * row i + (1 - share[i]) * row partner[i]``; both are ``[rows]``."""

    partner: Tensor
    share: Tensor

    def __call__(self, rows: Tensor) -> Tensor:
        share = self.share.to(rows.dtype).view(-1, *[1] * (rows.ndim - 1))
        return share * rows + (1 - share) * rows[self.partner]


def draw_shares(alpha: float, rows: int, rng: torch.Generator) -> Tensor:
    """``max(l, 1 - l)`` with ``l ~ Beta(alpha, alpha)``, ``[rows]``: a row stays closer to itself than to its partner."""
    seed = int(torch.randint(2**62, (), generator=rng, device="cpu"))  # torch's Beta takes no generator
    drawn = torch.from_numpy(np.random.default_rng(seed).beta(alpha, alpha, rows))
    return torch.maximum(drawn, 1 - drawn)


@register_method("mixup")
class MixUp(Method):
    """Cross-entropy to mixed labels on mixed inputs, labelled examples among themselves and unlabelled ones among themselves.

    Unlabelled examples take part with the network's own distribution on the same view as their label, as in the MixUp
    baseline of Berthelot et al. (NeurIPS 2019), whose comparison script runs alpha 0.75 (the default of its flag is 0.5).
    Each row draws its own share. Which row of a pair weighs more changes nothing in distribution, since partners are drawn
    evenly. Under a bilevel problem psi is the softmax.

    Args:
        weight: lambda. alpha: of the Beta distribution; small values mix little.
    """

    accepts = ("vector", "image")

    weight: NonNegative = 1.0
    alpha: Positive = 0.75

    def bind(self, output: Output) -> Method:
        if not isinstance(output, Classes):
            raise MethodError(
                f"{self.name} mixes two inputs and takes the mean of their labels, which holds for classes only; "
                "mixing two faces doubles the landmarks"
            )
        return super().bind(output)

    @property
    def views(self) -> int:
        return 1

    def copies(self, unlabelled: Unlabelled) -> tuple[Tree, ...]:
        """Views of the unlabelled batch that are mixed, all with the same imputed labels."""
        return (unlabelled.weak,)

    def draw_partners(self, labelled: int, unlabelled: int, rng: torch.Generator) -> Tensor:
        """A permutation of labelled followed by unlabelled rows, ``[labelled + unlabelled]``."""
        known, imputed = (torch.randperm(n, generator=rng, device="cpu") for n in (labelled, unlabelled))
        return torch.cat([known, labelled + imputed])

    def prepare(self, predict: Predict, params: Tree, batch: Batch, rng: torch.Generator) -> Batch:
        labelled, copies = len(batch.labelled.targets), self.copies(batch.unlabelled)
        partner = self.draw_partners(labelled, len(copies) * len(batch.unlabelled.index), rng)
        mixing = Mixing(partner, draw_shares(self.alpha, len(partner), rng))
        return replace(batch, drawn=Mixing(*(part.to(batch.labelled.targets.device) for part in mixing)))

    def inputs(self, batch: Batch) -> tuple[Tree, Tree]:
        rows = batch.drawn(concatenate(batch.labelled.inputs, *self.copies(batch.unlabelled)))
        n = len(batch.labelled.targets)
        return rows[:n], rows[n:]

    def targets(self, imputed: Imputation, batch: Batch) -> tuple[Tensor, Imputation]:
        copies, n = len(self.copies(batch.unlabelled)), len(batch.labelled.targets)
        known = F.one_hot(batch.labelled.targets, self.output.size).to(imputed.labels.dtype)
        rows = batch.drawn(torch.cat([known, imputed.labels.repeat(copies, 1)]))
        return rows[:n], Imputation(rows[n:], imputed.weights.repeat(copies))

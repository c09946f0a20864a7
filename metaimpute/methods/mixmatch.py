"""MM: MixUp of labelled and unlabelled examples, labels guessed from several views (Berthelot et al., NeurIPS 2019)."""

from __future__ import annotations

import torch
from torch import Tensor

from ..batches import Unlabelled
from ..engine.losses import squared_error_of_outputs
from ..engine.pytree import Tree
from ..ranges import Count, NonNegative, Positive, Share
from .base import Predict, register_method
from .mixup import MixUp


def sharpen(labels: Tensor, temperature: float) -> Tensor:
    """``labels ** (1 / temperature)``, each row scaled to sum to one; finite, with finite gradients, at labels of 0."""
    return (labels.clamp_min(torch.finfo(labels.dtype).tiny).log() / temperature).softmax(-1)


@register_method("mixmatch")
class MixMatch(MixUp):
    """Rows of all labelled and all augmented unlabelled examples are mixed with partners drawn from all of them.

    A label is the mean prediction over K weak views, sharpened. Mixed labelled rows are trained by cross-entropy, mixed
    unlabelled ones by the Brier score (squared error of probabilities, mean over classes and over the K n rows). All rows
    go through the network in one pass, so BatchNorm sees both (the released code interleaves the rows of K + 1 batches
    instead, for statistics of the same make-up from a smaller one). Under a bilevel problem psi is the sharpened mean,
    and its labels enter both losses.

    Args:
        weight: lambda_U. ramp: fraction of training over which it grows linearly; 16 of 1,024 epochs in the paper.
        alpha: of the Beta distribution. augmentations: K. temperature: T, 1 for no sharpening.
    """

    joint_forward = True

    weight: NonNegative = 75.0
    ramp: Share = 16 / 1024
    alpha: Positive = 0.75
    augmentations: Count = 2
    temperature: Positive = 0.5

    @property
    def views(self) -> int:
        return self.augmentations

    def copies(self, unlabelled: Unlabelled) -> tuple[Tree, ...]:
        return (unlabelled.weak, unlabelled.strong, *unlabelled.more)[: self.augmentations]

    def draw_partners(self, labelled: int, unlabelled: int, rng: torch.Generator) -> Tensor:
        return torch.randperm(labelled + unlabelled, generator=rng, device="cpu")

    def psi(self, predict: Predict, params: Tree, unlabelled: Unlabelled) -> Tensor:
        guesses = [predict(params, view).softmax(-1) for view in self.copies(unlabelled)]
        return sharpen(torch.stack(guesses).mean(0), self.temperature)

    @squared_error_of_outputs
    def consistency(self, raw: Tensor, labels: Tensor) -> Tensor:
        return self.output.squared_error(raw, labels)

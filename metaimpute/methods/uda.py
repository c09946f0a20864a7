"""UDA: predictions must survive strong augmentation (Xie et al., NeurIPS 2020)."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor

from ..batches import Imputation, Unlabelled
from ..batches.outputs import Classes, Output
from ..engine.losses import like_cross_entropy
from ..engine.own_part import shard_count, shard_sum
from ..engine.pytree import Tree
from ..ranges import NonNegative, Positive, Share
from .base import Method, MethodError, Predict, State, kl_divergence, register_method


@register_method("uda")
class UDA(Method):
    """KL divergence from the prediction on the original to that on an augmented example, with signal annealing.

    Training-signal annealing (``tsa``) drops labelled examples whose true class already has a probability above a
    threshold that rises from 1/classes to 1 over training; the loss is divided by the number kept.

    Args:
        weight: lambda. temperature: sharpening of the imputed distribution, 1 for none (images: 0.4).
        threshold: smallest largest-probability that counts, 0 for no mask (images: 0.8).
        tsa: schedule of the annealing threshold.
    """

    row_wise = True
    weak = "none"
    strong = "strong"
    labelled_view = "none"

    weight: NonNegative = 1.0
    temperature: Positive = 1.0
    threshold: Share = 0.0
    tsa: Literal["none", "linear", "log", "exp"] = "linear"

    @property
    def least_confidence(self) -> float:
        return self.threshold

    def bind(self, output: Output) -> Method:
        if not isinstance(output, Classes):
            raise MethodError("uda compares class distributions; a regression task has none")
        if self.temperature <= 0:
            raise MethodError(f"uda: temperature must be positive, not {self.temperature}")
        return super().bind(output)

    def psi(self, predict: Predict, params: Tree, unlabelled: Unlabelled) -> Tensor:
        return (predict(params, unlabelled.weak) / self.temperature).softmax(-1)

    def impute(self, predict: Predict, params: Tree, unlabelled: Unlabelled, state: State) -> Imputation:
        raw = predict(params, unlabelled.weak)
        labels = (raw / self.temperature).softmax(-1)
        confident = (self.output.confidence(raw.softmax(-1)) >= self.threshold).to(labels.dtype)
        return Imputation(labels, confident)

    @like_cross_entropy
    def consistency(self, raw: Tensor, labels: Tensor) -> Tensor:
        return kl_divergence(self.output, raw, labels)

    def labelled_loss(self, raw: Tensor, targets: Tensor, progress: float) -> Tensor:
        each = self.output.loss(raw, targets)
        if self.tsa == "none":
            return each.mean()
        threshold = self.annealing_threshold(progress)
        kept = ((-each).exp() <= threshold).to(each.dtype).detach()
        return (each * kept).sum() * shard_count() / shard_sum(kept.sum()).clamp_min(1.0)

    def annealing_threshold(self, progress: float) -> float:
        """eta_t = alpha_t (1 - 1/K) + 1/K with alpha linear, 1 - exp(-5 t) or exp(5 (t - 1))."""
        exp: Any = torch.exp if isinstance(progress, Tensor) else math.exp  # a scalar tensor in a compiled step
        alpha = {
            "linear": progress,
            "log": 1 - exp(-5 * progress),
            "exp": exp(5 * (progress - 1)),
            "none": 1.0,
        }[self.tsa]
        threshold: float = alpha * (1 - 1 / self.output.size) + 1 / self.output.size
        return threshold

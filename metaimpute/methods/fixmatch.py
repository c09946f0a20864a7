"""FM: confident labels from a weak view train a strong view (Sohn et al., NeurIPS 2020)."""

from __future__ import annotations

import torch.nn.functional as F

from ..batches import Imputation, Unlabelled
from ..batches.outputs import Classes, Output
from ..engine.pytree import Tree
from ..ranges import NonNegative, Share
from .base import Method, MethodError, Predict, State, register_method


@register_method("fixmatch")
class FixMatch(Method):
    """Cross-entropy of the strong view to the arg max of the weak view, where its probability reaches a threshold.

    Labelled and strong examples share one pass, so BatchNorm sees both; the weak pass is separate and without gradient
    (the released FixMatch puts it in the same batch). Under a bilevel problem psi is the softmax instead of the arg max
    (paper, appendix A.2); the mask stays.

    Args:
        weight: lambda. threshold: tau, smallest probability that counts.
    """

    row_wise = True
    strong = "strong"
    joint_forward = True

    weight: NonNegative = 1.0
    threshold: Share = 0.95

    @property
    def least_confidence(self) -> float:
        return self.threshold

    def bind(self, output: Output) -> Method:
        if not isinstance(output, Classes):
            raise MethodError("fixmatch takes the arg max of class probabilities; a regression task has none")
        return super().bind(output)

    def impute(self, predict: Predict, params: Tree, unlabelled: Unlabelled, state: State) -> Imputation:
        labels = self.psi(predict, params, unlabelled)
        confident = (self.output.confidence(labels) >= self.threshold).to(labels.dtype)
        return Imputation(F.one_hot(labels.argmax(-1), self.output.size).to(labels.dtype), confident)

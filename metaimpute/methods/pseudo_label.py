"""PL: confident predictions become hard labels (Lee, 2013)."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from ..batches import Imputation, Unlabelled
from ..batches.outputs import Classes
from ..engine.pytree import Tree
from ..ranges import NonNegative, Share
from .base import Method, Predict, State, register_method


@register_method("pseudo_label")
class PseudoLabel(Method):
    """Cross-entropy to the arg max where the largest probability exceeds a threshold; values are used as they are.

    Args:
        weight: lambda. ramp: fraction of training over which lambda grows linearly. threshold: confidence, classes only.
    """

    row_wise = True
    weight: NonNegative = 1.0
    ramp: Share = 0.4
    threshold: Share = 0.95

    @property
    def least_confidence(self) -> float:
        return self.threshold

    def impute(self, predict: Predict, params: Tree, unlabelled: Unlabelled, state: State) -> Imputation:
        labels = self.psi(predict, params, unlabelled)
        if not isinstance(self.output, Classes):
            return Imputation(labels, torch.ones_like(labels[:, 0]))
        confident = (self.output.confidence(labels) > self.threshold).to(labels.dtype)
        return Imputation(F.one_hot(labels.argmax(-1), self.output.size).to(labels.dtype), confident)

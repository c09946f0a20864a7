"""A linear classifier on standardised features, whatever they are of."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..engine.pytree import Tree


class FeatureClassifier(nn.Module):
    """Features, standardisation (identity until calibrated), dropout, one linear layer; the output is ``[n, outputs]``.

    Inputs are what :meth:`features` takes, or ``pooled`` in a dict: features that are known, ``[n, width]``.

    Args:
        width: of the features. encoder: a part of the module that comes before the linear layer, also in the order of its
            parameters.
    """

    correction: ClassVar[int] = 0  # of the spread of features, as in ``Tensor.std``

    def __init__(self, width: int, outputs: int, dropout: float, encoder: nn.Module | None = None) -> None:
        super().__init__()
        if encoder is not None:
            self.encoder: nn.Module | None = encoder
        self.mean: Tensor
        self.spread: Tensor
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("spread", torch.ones(width))
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(width, outputs)
        nn.init.normal_(self.classifier.weight, std=0.02)
        nn.init.zeros_(self.classifier.bias)

    def features(self, inputs: Any) -> Tensor:
        """One vector per input, ``[n, width]``."""
        raise TypeError(f"{type(self).__name__} does not define features()")

    def pooled(self, inputs: Tree) -> Tensor:
        """One vector per input, ``[n, width]``, taken or computed."""
        known: Tensor | None = inputs.get("pooled") if isinstance(inputs, dict) else None
        return self.features(inputs) if known is None else known

    def standardize(self, batches: Iterable[Tree]) -> None:
        """Takes mean and spread of the features of these inputs as zero and one from now on."""
        was_training = self.training
        self.eval()
        with torch.no_grad():
            found = torch.cat([self.pooled(batch) for batch in batches])
            self.mean.copy_(found.mean(0))
            self.spread.copy_(found.std(0, correction=self.correction) + 1e-3)
        self.train(was_training)

    def forward(self, inputs: Tree) -> Tensor:
        outputs: Tensor = self.classifier(self.dropout((self.pooled(inputs) - self.mean) / self.spread))
        return outputs

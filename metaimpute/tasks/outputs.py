"""What a network predicts, classes or values, and how predictions, labels and leaf variables turn into each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor


class Output(Protocol):
    """The mathematics of one kind of target. ``raw`` is what the network returns, ``[n, size]``."""

    @property
    def size(self) -> int: ...
    @property
    def metric(self) -> str: ...
    def activate(self, raw: Tensor) -> Tensor: ...
    def loss(self, raw: Tensor, targets: Tensor) -> Tensor: ...
    def soft_loss(self, raw: Tensor, labels: Tensor) -> Tensor: ...
    def squared_error(self, raw: Tensor, labels: Tensor) -> Tensor: ...
    def confidence(self, labels: Tensor) -> Tensor: ...
    def to_leaf(self, labels: Tensor) -> Tensor: ...
    def from_leaf(self, leaf: Tensor) -> Tensor: ...
    def error(self, raw: Tensor, targets: Tensor) -> Tensor: ...
    def agreement(self, labels: Tensor, targets: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Classes:
    """``size`` exclusive classes: raw outputs are logits, labels are probabilities, the metric is error in percent."""

    size: int
    metric: str = "error %"

    def activate(self, raw: Tensor) -> Tensor:
        return raw.softmax(-1)

    def loss(self, raw: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy per example, ``[n]``."""
        return F.cross_entropy(raw, targets, reduction="none")

    def soft_loss(self, raw: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy to soft labels per example, ``[n]``."""
        return -(labels * raw.log_softmax(-1)).sum(-1)

    def squared_error(self, raw: Tensor, labels: Tensor) -> Tensor:
        """Squared difference of probabilities, mean over classes, ``[n]`` (Tarvainen and Valpola, 2017)."""
        return (raw.softmax(-1) - labels).square().mean(-1)

    def confidence(self, labels: Tensor) -> Tensor:
        return labels.max(-1).values

    def to_leaf(self, labels: Tensor) -> Tensor:
        """Logits of the labels, bounded so that a one-hot label stays finite."""
        return labels.clamp_min(1e-6).log()

    def from_leaf(self, leaf: Tensor) -> Tensor:
        return leaf.softmax(-1)

    def error(self, raw: Tensor, targets: Tensor) -> Tensor:
        """0 or 100 per example, so that a mean is an error in percent."""
        return 100.0 * (raw.argmax(-1) != targets).float()

    def agreement(self, labels: Tensor, targets: Tensor) -> Tensor:
        """1 where the most probable label is the true class, else 0."""
        return (labels.argmax(-1) == targets).float()


@dataclass(frozen=True)
class Values:
    """``size`` real targets: raw outputs are the values, the metric is the root mean squared error per example."""

    size: int
    metric: str = "RMSE"

    def activate(self, raw: Tensor) -> Tensor:
        return raw

    def loss(self, raw: Tensor, targets: Tensor) -> Tensor:
        """Squared error, mean over the outputs, ``[n]``."""
        return (raw - targets.view_as(raw)).square().mean(-1)

    def soft_loss(self, raw: Tensor, labels: Tensor) -> Tensor:
        return self.loss(raw, labels)

    def squared_error(self, raw: Tensor, labels: Tensor) -> Tensor:
        return self.loss(raw, labels)

    def confidence(self, labels: Tensor) -> Tensor:
        return torch.ones_like(labels[:, 0])

    def to_leaf(self, labels: Tensor) -> Tensor:
        return labels

    def from_leaf(self, leaf: Tensor) -> Tensor:
        return leaf

    def error(self, raw: Tensor, targets: Tensor) -> Tensor:
        return self.loss(raw, targets).sqrt()

    def agreement(self, labels: Tensor, targets: Tensor) -> Tensor:
        return -self.error(labels, targets)

"""What a network predicts, classes or values, and how predictions, labels and leaf variables turn into each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from ..engine.losses import like_cross_entropy, squared_error_of_outputs


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
    def measures(self, raw: Tensor, targets: Tensor) -> dict[str, Tensor]: ...
    def agreement(self, labels: Tensor, targets: Tensor) -> Tensor: ...
    def overall(self, mean: float) -> float: ...
    def towards(self, labels: Tensor, targets: Tensor) -> Tensor | None: ...


@dataclass(frozen=True)
class Classes:
    """``size`` exclusive classes: raw outputs are logits, labels are probabilities, the metric is error in percent."""

    size: int
    metric: str = "error %"

    def activate(self, raw: Tensor) -> Tensor:
        return raw.softmax(-1)

    @like_cross_entropy
    def loss(self, raw: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy per example, ``[n]``."""
        return F.cross_entropy(raw, targets, reduction="none")

    @like_cross_entropy
    def soft_loss(self, raw: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy to soft labels per example, ``[n]``."""
        return -(labels * raw.log_softmax(-1)).sum(-1)

    @squared_error_of_outputs
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

    def measures(self, raw: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Further measures by name, ``[n]`` each; their means are reported beside the error."""
        return {}

    def agreement(self, labels: Tensor, targets: Tensor) -> Tensor:
        """1 where the most probable label is the true class, else 0."""
        return (labels.argmax(-1) == targets).float()

    def towards(self, labels: Tensor, targets: Tensor) -> Tensor | None:
        """The way from labels ``[n, size]`` to the true ones, zero in rows without truth; None where there is none."""
        known = targets >= 0
        if not bool(known.any()):
            return None
        true = F.one_hot(targets.clamp_min(0), self.size).to(labels.dtype)
        return torch.where(known[:, None], true - labels, 0.0)

    def overall(self, mean: float) -> float:
        """The metric of a whole pool, from the mean of :meth:`error` over its examples."""
        return mean


@dataclass(frozen=True)
class Values:
    """``size`` real targets: raw outputs are the values, the metric is the root mean squared error per example."""

    size: int
    metric: str = "RMSE"

    def activate(self, raw: Tensor) -> Tensor:
        return raw

    @squared_error_of_outputs
    def loss(self, raw: Tensor, targets: Tensor) -> Tensor:
        """Squared error, mean over the outputs, ``[n]``."""
        return (raw - targets.view_as(raw)).square().mean(-1)

    @squared_error_of_outputs
    def soft_loss(self, raw: Tensor, labels: Tensor) -> Tensor:
        return self.loss(raw, labels)

    @squared_error_of_outputs
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

    def measures(self, raw: Tensor, targets: Tensor) -> dict[str, Tensor]:
        return {}

    def agreement(self, labels: Tensor, targets: Tensor) -> Tensor:
        return -self.error(labels, targets)

    def towards(self, labels: Tensor, targets: Tensor) -> Tensor | None:
        off = targets.view_as(labels) - labels
        return torch.where(torch.isfinite(off), off, 0.0) if bool(torch.isfinite(off).any()) else None

    def overall(self, mean: float) -> float:
        return mean


@dataclass(frozen=True)
class Standardized(Values):
    """Values of which the network sees ``(value - mean) / std``.

    Attributes:
        mean, std: of each value in its own units; empty: 0 and 1.
    """

    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    def original(self, values: Tensor) -> Tensor:
        """Standardised values ``[n, size]`` in their own units."""
        return values * values.new_tensor(self.std) + values.new_tensor(self.mean) if self.mean else values

    def standardized(self, values: Tensor) -> Tensor:
        """Values in their own units ``[n, size]``, or points ``[n, size / 2, 2]``, as the network sees them."""
        values = values.flatten(1)
        return (values - values.new_tensor(self.mean)) / values.new_tensor(self.std) if self.mean else values


@dataclass(frozen=True)
class Quantities(Standardized):
    """Measured quantities, standardised; the metric is the root mean squared error over a pool, in their own units."""

    def original(self, values: Tensor) -> Tensor:
        """Standardised values ``[n, size]`` in their own units, as float64 on the CPU: float32 would round large ones."""
        return super().original(values.detach().cpu().double()) if self.mean else values

    def error(self, raw: Tensor, targets: Tensor) -> Tensor:
        """Squared error in the quantities' own units, mean over the outputs, ``[n]``."""
        off = raw - targets.view_as(raw)
        return (off * off.new_tensor(self.std) if self.std else off).square().mean(-1)

    def overall(self, mean: float) -> float:
        return float(mean**0.5)

    def agreement(self, labels: Tensor, targets: Tensor) -> Tensor:
        return -self.error(labels, targets).sqrt()


@dataclass(frozen=True)
class Landmarks(Standardized):
    """``size / 2`` points, x and y in turn, each coordinate standardised by ``mean`` and ``std``.

    The metric is the distance to the true point as a share of the distance between the eyes, the first two points, in
    percent, mean over the points (Zhang et al., ECCV 2014; the paper's Table 1). A face fails above 10 percent.

    Attributes:
        mean, std: of each coordinate in pixels of the network's input, origin at the left top corner.
    """

    metric: str = "landmark error %"
    failure: ClassVar[float] = 10.0

    def points(self, values: Tensor) -> Tensor:
        """Standardised values ``[n, size]`` as points in pixels ``[n, size / 2, 2]``."""
        return self.original(values).view(len(values), -1, 2)

    def error(self, raw: Tensor, targets: Tensor) -> Tensor:
        true = self.points(targets)
        eyes: Tensor = (true[:, 0] - true[:, 1]).norm(dim=-1)
        off: Tensor = (self.points(raw) - true).norm(dim=-1)
        return 100.0 * off.mean(-1) / eyes.clamp_min(1e-6)

    def measures(self, raw: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """``failure_rate``: 100 for a face with an error above 10 percent, else 0."""
        return {"failure_rate": 100.0 * (self.error(raw, targets) > self.failure).float()}

    def agreement(self, labels: Tensor, targets: Tensor) -> Tensor:
        """1 where the labelled face does not fail, else 0."""
        return (self.error(labels, targets) <= self.failure).float()

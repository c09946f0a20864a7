"""Episodes: rows that are small tasks of their own, with a support set to learn from and a query set to be judged by.

Inputs of a batch of n episodes are a dict: ``support`` ``[n, s, ...]``, their targets ``given`` ``[n, s]`` or ``[n, s, d]``, and
``query`` ``[n, q, ...]``. Targets of the batch are the query set's; raw outputs for it are ``[n, q, outputs]``.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .outputs import Values


@dataclass(frozen=True)
class EpisodeValues(Values):
    """Real targets of query points; the metric is the mean squared error, as papers on few-shot regression report it."""

    metric: str = "mean squared error"

    def error(self, raw: Tensor, targets: Tensor) -> Tensor:
        """Mean over the query set, ``[n]``."""
        return self.loss(raw, targets).flatten(1).mean(1)


@dataclass(frozen=True)
class EpisodeClasses(Values):
    """Classes of query points, numbered anew in every episode; the metric is the error in percent."""

    metric: str = "error %"

    def activate(self, raw: Tensor) -> Tensor:
        return raw.softmax(-1)

    def loss(self, raw: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy of each point, shaped like ``targets``."""
        return -raw.log_softmax(-1).gather(-1, targets[..., None])[..., 0]

    def soft_loss(self, raw: Tensor, labels: Tensor) -> Tensor:
        return -(labels * raw.log_softmax(-1)).sum(-1)

    def squared_error(self, raw: Tensor, labels: Tensor) -> Tensor:
        return (raw.softmax(-1) - labels).square().mean(-1)

    def error(self, raw: Tensor, targets: Tensor) -> Tensor:
        """Mean over the query set, in percent, ``[n]``."""
        wrong: Tensor = raw.argmax(-1) != targets
        return 100.0 * wrong.to(torch.get_default_dtype()).flatten(1).mean(1)

"""What an inner or outer loss may tell an estimator beyond its value, so that the estimator can do less work.

A plain callable ``loss(theta, c, batch) -> scalar`` is always enough. A :class:`StructuredLoss` adds, where it can:

* a split ``whole = free(theta, batch) + coupled(theta, c, batch)``: derivatives with respect to ``c`` skip ``free``;
* a factorisation ``whole = readout(theta, features(theta, batch), c, batch)`` whose readout uses only the last linear
  layer: ``head`` and ``approx`` then evaluate the network once and differentiate only the readout;
* the rows of imputed labels that enter the last layer's gradient, which is what Eq. 6 of the L2I paper is about.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor

from .pytree import Tree

Loss = Callable[[Tree, Tree, Any], Tensor]


class LabelRows(NamedTuple):
    """One row per example whose label the coupling decides.

    Attributes:
        labels: ``[rows, outputs]``, a differentiable function of the coupling.
        weights: ``[rows]``, the factor of the row's loss in the whole loss. For cross-entropy that is also the factor with which
            its residual (prediction - label) enters the gradient of the logits, which Eq. 6 takes every loss to have.
        features: ``[rows, features]``, inputs of the last layer.
    """

    labels: Tensor
    weights: Tensor
    features: Tensor


@dataclass(frozen=True)
class StructuredLoss:
    """A loss with optional structure; see the module's docstring. All members are pure functions."""

    whole: Loss
    free: Callable[[Tree, Any], Tensor] | None = None
    coupled: Loss | None = None
    head: tuple[str, ...] = ()
    features: Callable[[Tree, Any], Tree] | None = None
    readout: Callable[[Tree, Tree, Tree, Any], Tensor] | None = None
    label_rows: Callable[[Tree, Tree, Any], LabelRows] | None = None

    def __call__(self, theta: Tree, c: Tree, batch: Any) -> Tensor:
        return self.whole(theta, c, batch)

    @property
    def is_split(self) -> bool:
        return self.free is not None and self.coupled is not None

    @property
    def is_factored(self) -> bool:
        return self.features is not None and self.readout is not None and bool(self.head)

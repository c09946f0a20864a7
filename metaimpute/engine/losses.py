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
from typing import Any, NamedTuple, TypeVar

from torch import Tensor

from .pytree import Tree

Loss = Callable[[Tree, Tree, Any], Tensor]
Features = Callable[[Tree, Any], Tree]
Marked = TypeVar("Marked", bound=Callable[..., Tensor])


def like_cross_entropy(loss: Marked) -> Marked:
    """Declares a loss of raw outputs and labels to be a cross-entropy, or one plus a term of the labels alone (KL divergence).

    Its gradient in the logits is then prediction - label, the residual of Eq. 6. The mark is the function's own: one that
    overrides it has none.
    """
    vars(loss)["like_cross_entropy"] = True
    return loss


def is_like_cross_entropy(*losses: Callable[..., Tensor]) -> bool:
    """Whether all of these losses are so declared."""
    return all(getattr(loss, "like_cross_entropy", False) for loss in losses)


def averages_outputs(loss: Callable[..., Tensor]) -> bool:
    """Whether a loss of raw outputs and labels is declared to be a mean over the outputs."""
    return getattr(loss, "averages_outputs", False)


def mean_over_outputs(loss: Marked) -> Marked:
    """Declares a loss of raw outputs and labels to be a mean over outputs, which a sum over them is ``outputs`` times."""
    vars(loss)["averages_outputs"] = True
    return loss


def squared_error_of_outputs(loss: Marked) -> Marked:
    """Declares a distance to be the output's own ``squared_error``, a mean over outputs."""
    vars(loss)["squared_error"] = True
    return mean_over_outputs(loss)


def is_squared_error(loss: Callable[..., Tensor]) -> bool:
    """Whether it is so declared."""
    return getattr(loss, "squared_error", False)


class LabelRows(NamedTuple):
    """One row per example whose label the coupling decides.

    Attributes:
        labels: ``[rows, outputs]``, a differentiable function of the coupling.
        weights: ``[rows]``, the factor of the row's loss in the whole loss.
        features: ``[rows, features]``, inputs of the last layer.
        residual: ``(theta, labels) -> [rows, outputs]``, the whole loss's gradient in the rows' raw outputs, a differentiable
            function of the labels. None: that of cross-entropy, ``weights * (prediction - label)``, as Eq. 6 has it.
    """

    labels: Tensor
    weights: Tensor
    features: Tensor
    residual: Callable[[Tree, Tensor], Tensor] | None = None


@dataclass(frozen=True)
class StructuredLoss:
    """A loss with optional structure; see the module's docstring. All members are pure functions.

    Attributes:
        features: one function of all rows; of a split loss a pair of them, each with the noise of its part, so that a loss has
            the same noise whichever way it is evaluated.
    """

    whole: Loss
    free: Callable[[Tree, Any], Tensor] | None = None
    coupled: Loss | None = None
    head: tuple[str, ...] = ()
    features: Features | tuple[Features, Features] | None = None
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

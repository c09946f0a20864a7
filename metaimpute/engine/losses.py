"""What an inner or outer loss may tell an estimator beyond its value, so that the estimator can do less work.

A plain callable ``loss(theta, c, batch) -> scalar`` is always enough. A :class:`StructuredLoss` adds, where it can:

* a :class:`Split` into a part that the coupling does not touch and one that it does;
* a :class:`Factored` form at the last linear layer: ``head`` and ``approx`` then evaluate the network once and differentiate only
  the readout; with it the rows of imputed labels that enter the last layer's gradient, which is what Eq. 6 of the L2I paper
  is about.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeVar

from torch import Tensor

from ..errors import UserError
from .pytree import Tree

Loss = Callable[[Tree, Tree, Any], Tensor]
LossWithAux = Callable[[Tree, Tree, Any], Tensor | tuple[Tensor, Any]]
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
class Split:
    """``whole = free(theta, batch) + coupled(theta, c, batch)``: derivatives with respect to ``c`` skip ``free``.

    Each part has noise of its own, so that a part evaluated alone has the noise it has in the whole.
    """

    free: Callable[[Tree, Any], Tensor]
    coupled: Loss


@dataclass(frozen=True)
class Factored:
    """``whole = readout(theta, features(theta, batch), c, batch)`` whose readout uses only the last linear layer.

    Attributes:
        features: one function of all rows; of a split loss a pair of them, whose results are ``readout``'s pair, each with the
            noise of its part.
        label_rows: the rows of imputed labels, which ``approx`` needs: ``(c, features, batch) -> rows``.
    """

    features: Features | tuple[Features, Features]
    readout: Callable[[Tree, Tree, Tree, Any], Tensor]
    label_rows: Callable[[Tree, Tree, Any], LabelRows] | None = None


class Join(Protocol):
    """How the own losses of several processes become one loss; :mod:`.distributed` has it."""

    @property
    def weight(self) -> float: ...
    def enter(self, theta: Tree, c: Tree) -> tuple[Tree, Tree]: ...
    def leave(self, value: Tensor) -> Tensor: ...
    def within(self) -> contextlib.AbstractContextManager[None]: ...
    def agreed(self, seed: int) -> int: ...
    def require_alike(self, theta: Tree, c: Tree, inner: Any, outer: Any, outer_joined: bool) -> None: ...


@dataclass(frozen=True)
class StructuredLoss:
    """A loss with optional structure; see the module's docstring. All members are pure functions.

    Attributes:
        head: names of the last linear layer's parameters, which ``head`` moves; factored, only they may be in the readout.
        joined: over which processes the rows are dealt out (:func:`~metaimpute.engine.data_parallel`): ``whole``, ``split`` and
            ``factored`` are then a process's own.
    """

    whole: Loss
    head: tuple[str, ...] = ()
    split: Split | None = None
    factored: Factored | None = None
    joined: Join | None = None

    def __post_init__(self) -> None:
        if self.factored is not None and not self.head:
            raise ValueError("a factored loss names its last linear layer's parameters: head=(...)")

    def __call__(self, theta: Tree, c: Tree, batch: Any) -> Tensor:
        theta, c = self.enter(theta, c)
        with self.within():
            value = self.whole(theta, c, batch)
        return self.leave(value)

    def enter(self, theta: Tree, c: Tree) -> tuple[Tree, Tree]:
        """Parameters and coupling as the parts are given them."""
        return (theta, c) if self.joined is None else self.joined.enter(theta, c)

    def leave(self, value: Tensor) -> Tensor:
        """The loss, from what the parts add up to."""
        return value if self.joined is None else self.joined.leave(value)

    def share(self, slope: Tensor) -> Tensor:
        """A gradient of the loss, from that of a part."""
        return slope if self.joined is None else slope * self.joined.weight

    def within(self) -> contextlib.AbstractContextManager[None]:
        """The surroundings of an evaluation of a part."""
        return contextlib.nullcontext() if self.joined is None else self.joined.within()


class NotScalar(UserError, ValueError):
    """An inner or outer loss that does not return one number."""


def scalar(value: Tensor, which: str) -> Tensor:
    """The loss itself.

    Raises:
        NotScalar: when it is not a tensor with one element.
    """
    if not isinstance(value, Tensor) or value.numel() != 1:
        found = f"shape {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise NotScalar(f"the {which} loss must return a scalar tensor, not {found}; take its mean or sum")
    return value if value.ndim == 0 else value.reshape(())


def joined_over(loss: Any) -> Join | None:
    """How a loss is joined over processes; None for one that is not."""
    return loss.joined if isinstance(loss, StructuredLoss) else None

"""What one training step is made of: labelled examples, views of unlabelled ones, and labels imputed for them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from torch import Tensor

from ..engine.pytree import Tree
from .motion import LabelMotion

ViewKind = Literal["none", "weak", "strong"]
InputKind = Literal["vector", "image", "text"]
VIEW_KINDS: tuple[ViewKind, ...] = ("none", "weak", "strong")


@dataclass(frozen=True)
class Labelled:
    """A labelled batch: model inputs, targets ``[n]`` or ``[n, d]``, positions in the labelled pool ``[n]``."""

    inputs: Tree
    targets: Tensor
    index: Tensor


@dataclass(frozen=True)
class Unlabelled:
    """An unlabelled batch.

    Attributes:
        weak: the view labels are imputed from. strong: the view the student is trained on.
        index: positions in the unlabelled pool ``[n]``.
        truth: targets of the strong view where known, for diagnostics only.
        motion: how a label moves from the weak view to the strong one; None where labels do not move.
        more: further views of the strong kind, for methods that ask for more than two (``Method.views``).
    """

    weak: Tree
    strong: Tree
    index: Tensor
    truth: Tensor | None = None
    motion: LabelMotion | None = None
    more: tuple[Tree, ...] = ()

    def carried(self, labels: Tensor) -> Tensor:
        """Labels predicted on the weak view ``[n, outputs]`` as labels of the strong view."""
        return labels if self.motion is None else self.motion.apply(labels)


@dataclass(frozen=True)
class Imputation:
    """Labels a method gives to an unlabelled batch.

    Attributes:
        labels: ``[n, outputs]`` probabilities or values. weights: ``[n]`` factors of the consistency loss (a mask, or ones).
    """

    labels: Tensor
    weights: Tensor


@dataclass(frozen=True)
class Batch:
    """One training step's data.

    Attributes:
        progress: fraction of training done, in [0, 1); schedules are functions of it.
        imputed: labels imputed by the method for ``unlabelled``; None before imputation.
        drawn: random choices the method has made for this batch (``Method.prepare``), the same for every use of it.
    """

    labelled: Labelled
    unlabelled: Unlabelled
    progress: float = 1.0
    step: int = 0
    imputed: Imputation | None = None
    drawn: Any = None

    def with_imputed(self, imputed: Imputation) -> Batch:
        return replace(self, imputed=imputed)

    @property
    def imputation(self) -> Imputation:
        """The imputed labels.

        Raises:
            ValueError: before the method has imputed any.
        """
        if self.imputed is None:
            raise ValueError("this batch has no imputed labels yet")
        return self.imputed

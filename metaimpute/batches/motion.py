"""How labels move under a view: an affine map of each example's label, so landmarks follow a shift, crop, scale or flip.

Class labels do not move. A prediction on one view becomes the label of another by undoing the first view's motion and
carrying out the second's; both are linear algebra, so gradients pass.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class LabelMotion:
    """``label -> matrix @ label + offset`` for each example of a batch.

    Attributes:
        matrix: ``[n, outputs, outputs]``, invertible. offset: ``[n, outputs]``.
    """

    matrix: Tensor
    offset: Tensor

    def apply(self, labels: Tensor) -> Tensor:
        """Labels ``[n, outputs]`` of the original examples as labels of the views."""
        return torch.einsum("nij,nj->ni", self.matrix, labels) + self.offset

    def inverse(self) -> LabelMotion:
        """From labels of the views back to those of the original examples."""
        back = torch.linalg.inv(self.matrix)
        return LabelMotion(back, -torch.einsum("nij,nj->ni", back, self.offset))

    def then(self, other: LabelMotion) -> LabelMotion:
        """This motion followed by another."""
        return LabelMotion(other.matrix @ self.matrix, other.apply(self.offset))

    def to(self, device: torch.device) -> LabelMotion:
        return LabelMotion(self.matrix.to(device), self.offset.to(device))


def between(weak: LabelMotion | None, strong: LabelMotion | None) -> LabelMotion | None:
    """The motion from one view's labels to another's; None where labels do not move."""
    if weak is None:
        return strong
    return weak.inverse() if strong is None else weak.inverse().then(strong)

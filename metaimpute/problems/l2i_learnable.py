"""L2I with learnable labels (L): the imputed labels themselves are moved by the hold-out gradient, then trained on.

Paper: "Modeling missing labels as learnable parameters" (Eq. 10, 11, 14, 15; Tables 9-10). Each batch's labels start at
psi(x_u) and are leaf variables: logits for classes, the values themselves for regression. They take one gradient step,
``z* = z - eta_z dC_H/dz`` (Eq. 10), and the network takes one more training step on ``C_T + lambda C_U(z*)``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..batches import Batch
from ..engine.pytree import Tree
from ..ranges import Positive
from .base import register_problem
from .forms import Trained
from .l2i import L2I


@register_problem("l2i_learnable")
class L2ILearnable(L2I):
    """Learning to Impute, labels as learnable parameters (L; Eq. 10).

    Args:
        label_lr: eta_z, step size of the labels (logits for classes). Where the inner loss is a mean over the batch, useful
            values grow with the batch size and with the inverse of the inner learning rate.
        trained: the second step's loss on the moved labels: ``inner``, the look-ahead's; ``all``, C_T + lambda C_U as the
            paper has it; ``unlabelled``, the mean squared error to them alone, as released. None: as the form has it.
    """

    dealt_coupling = "rows"
    learns = "labels"

    label_lr: Positive = 1.0
    trained: Trained | None = None

    @property
    def inner_is_base_loss(self) -> bool:
        return False

    def batch_meta(self, params: Tree, batch: Batch) -> dict[str, Tensor]:
        with torch.no_grad():
            return {"labels": self.context.output.to_leaf(self.psi(params, batch))}

    def couple(self, meta: Tree, batch: Batch) -> Tree:
        return meta["labels"]

    def fused_value(self, c: Tree, batch: Batch) -> Tree:
        return c.detach()

    def labels(self, c: Tree) -> Tensor:
        return self.context.output.from_leaf(c)

    def move(self, meta: Tree, gradient: Tree) -> Tree:
        """``z - eta_z * gradient``."""
        return {"labels": (meta["labels"] - self.label_lr * gradient["labels"]).detach()}

    def label_change(self, before: Tree, after: Tree) -> Tensor:
        """Of the labels themselves, which for classes are not the leaf variables."""
        return (self.labels(after["labels"]) - self.labels(before["labels"])).abs().mean()

    def trained_loss(self, params: Tree, meta: Tree, batch: Batch) -> Tensor:
        raw = self.method.forward(lambda inputs: self.predict(params, inputs), batch)
        if self.form.trained == "inner":
            return self._readout_loss(raw, meta["labels"], batch)
        known, rows = self._targets(meta["labels"], batch)
        if self.form.trained == "unlabelled":
            return (rows.weights * self.context.output.squared_error(raw[1], rows.labels)).mean()
        unlabelled = (rows.weights * self._measure(raw[1], rows.labels)).mean()
        weight = self.method.lookahead_weight(batch.progress)
        return self.method.labelled_loss(raw[0], known, batch.progress) + weight * unlabelled

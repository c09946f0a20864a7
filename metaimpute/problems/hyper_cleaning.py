"""Data hyper-cleaning: a weight for every labelled row, so that training on the weighted rows suits trusted ones.

Franceschi et al. (ICML 2017; ICML 2018) and Shaban et al. (AISTATS 2019): the outer variable is one
number per labelled row, the inner loss the mean of ``sigmoid(w_i) * loss_i`` over a batch, the outer loss that of trusted rows.
They unroll training as a whole; here the hypergradient is taken after a few steps from where training stands, at every
step, which is Shaban et al.'s truncation.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..batches import Batch
from ..engine.pytree import Tree, tensors
from ..ranges import Finite, NonNegative
from .base import BilevelProblem, Sizes, register_problem


@register_problem("hyper_cleaning")
class HyperCleaning(BilevelProblem):
    """Weights of the labelled rows, one logit each (Franceschi et al., 2017; Shaban et al., 2019).

    Args:
        logit: where the weights begin, before the sigmoid. l2: factor of the squared norm of the network's parameters in the
            inner loss.
    """

    dealt_coupling = "rows"
    uses_unlabelled = False

    logit: Finite = 0.0
    l2: NonNegative = 0.0

    def init_meta(self, sizes: Sizes) -> dict[str, Tensor]:
        return {"logits": torch.full((sizes.labelled,), self.logit, device="cpu")}

    def couple(self, meta: Tree, batch: Batch) -> Tree:
        """Weights of the batch's rows, ``[n]``, in (0, 1)."""
        found: Tensor = meta["logits"][batch.labelled.index.to(meta["logits"].device)].sigmoid()
        return found

    def inner_loss(self, params: Tree, c: Tree, batch: Batch) -> Tensor:
        loss: Tensor = (c * self.losses(params, batch.labelled)).mean()
        if self.l2:
            loss = loss + self.l2 * torch.stack([leaf.square().sum() for leaf in tensors(params)]).sum()
        return loss

    def row_weights(self, meta: Tree) -> Tensor | None:
        return meta["logits"].detach().sigmoid()  # type: ignore[no-any-return]

    def measure(self, meta: Tree) -> dict[str, float]:
        """Mean weight of all labelled rows, and the share of them that count for less than a half."""
        weights = meta["logits"].detach().sigmoid()
        return {"row_weight": float(weights.mean()), "rows_doubted": float((weights < 0.5).float().mean())}

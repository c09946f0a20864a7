"""A weight for every unlabelled row: not all unlabelled data are equal.

Ren, Yeh and Schwing (NeurIPS 2020): the inner loss is that of the labels plus ``sum_u lambda_u * loss_u``, the outer loss that of
validation rows. They differentiate at a stationary point of the inner loss, with the Hessian of the last layer; here the
estimators ``cg`` and ``neumann`` do, with that of all layers, and ``exact`` or ``mixed`` through the steps taken.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..batches import Batch
from ..engine.pytree import Tree
from ..ranges import Finite
from .base import BilevelProblem, Sizes, register_problem


@register_problem("unlabelled_weights")
class UnlabelledWeights(BilevelProblem):
    """Weights of the unlabelled rows, one logit each, times the method's lambda (Ren, Yeh and Schwing, 2020).

    Their weights are any numbers; these are a sigmoid's, in (0, 1).

    Args:
        logit: where the weights begin, before the sigmoid.
    """

    dealt_coupling = "rows"
    logit: Finite = 2.0

    def init_meta(self, sizes: Sizes) -> dict[str, Tensor]:
        return {"logits": torch.full((sizes.unlabelled,), self.logit, device="cpu")}

    def couple(self, meta: Tree, batch: Batch) -> Tree:
        """Weights of the batch's unlabelled rows, ``[n]``."""
        found: Tensor = meta["logits"][batch.unlabelled.index.to(meta["logits"].device)].sigmoid()
        return found

    def inner_loss(self, params: Tree, c: Tree, batch: Batch) -> Tensor:
        supervised, losses = self.parts(params, batch)
        weights: Tensor = c.repeat(len(losses) // len(c))  # methods of several copies have them one after another
        return supervised + self.method.lookahead_weight(batch.progress) * (weights * losses).mean()

    def measure(self, meta: Tree) -> dict[str, float]:
        """Mean weight of all unlabelled rows, and their standard deviation."""
        weights = meta["logits"].detach().sigmoid()
        return {"unlabelled_weight": float(weights.mean()), "unlabelled_weight_std": float(weights.std(correction=0))}

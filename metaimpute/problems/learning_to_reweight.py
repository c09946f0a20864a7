"""Learning to reweight: weights of a batch's rows, found anew in every step from the gradients alone.

Ren, Zeng, Yang and Urtasun (ICML 2018), Algorithm 1. A step of SGD on ``sum_i eps_i loss_i`` is taken at ``eps = 0``; the weights
are the negative gradient of the trusted rows' loss after it, clipped at zero and scaled to sum to one; the
network's only training step is on the rows so weighted.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..batches import Batch
from ..engine.pytree import Tree
from .base import BilevelProblem, register_problem


@register_problem("learning_to_reweight")
class LearningToReweight(BilevelProblem):
    """Weights of the labelled rows of each batch, not kept between steps (Ren et al., 2018).

    The look-ahead is one step of plain SGD, whose learning rate cancels; so does ``problem.weight``.
    """

    dealt_coupling = "rows"
    dealt_reduction = "sum"
    learns = "labels"
    replaces_base_step = True
    uses_unlabelled = False
    max_inner_steps = 1

    def batch_meta(self, params: Tree, batch: Batch) -> dict[str, Tensor]:
        return {"weights": torch.zeros(len(batch.labelled.targets), device=batch.labelled.targets.device)}

    def inner_loss(self, params: Tree, c: Tree, batch: Batch) -> Tensor:
        loss: Tensor = (c["weights"] * self.losses(params, batch.labelled)).sum()
        return loss

    def move(self, meta: Tree, gradient: Tree) -> Tree:
        """``max(-gradient, 0)``, summing to one, or all zero where no row helps."""
        useful = (meta["weights"] - gradient["weights"]).detach().clamp_min(0.0)
        total = useful.sum()
        return {"weights": useful / torch.where(total > 0, total, torch.ones_like(total))}

    def measure(self, meta: Tree) -> dict[str, float]:
        """Share of the batch's rows that have a weight."""
        return {"rows_used": float((meta["weights"] > 0).float().mean())}

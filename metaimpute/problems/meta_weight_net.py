"""Meta-Weight-Net: a learned function from a labelled row's loss to its weight.

Shu, Xie, Yi, Zhao, Zhou, Xu and Meng (NeurIPS 2019): the inner loss is ``mean(V(loss_i; Theta) * loss_i)``, where V is a network
of one hidden layer with a sigmoid at its end; the outer loss is that of trusted rows after one step.
"""

from __future__ import annotations

from torch import Tensor

from ..batches import Batch
from ..engine.own_part import shard_count, shard_sum
from ..engine.pytree import Tree
from ..ranges import Count
from .base import BilevelProblem, Sizes, register_problem
from .functions import init_function, weights_at, weights_of_losses


@register_problem("meta_weight_net")
class MetaWeightNet(BilevelProblem):
    """Weights of the labelled rows as a function of their losses (Shu et al., 2019).

    Args:
        width: hidden units of the function. normalize: divide weights by their sum over the batch: else the scale of all
            weights, a learning rate, is learned as well.
    """

    dealt_coupling = "whole"
    uses_unlabelled = False

    width: Count = 100
    normalize: bool = True

    def init_meta(self, sizes: Sizes) -> dict[str, Tensor]:
        return init_function(1, self.width)

    def inner_loss(self, params: Tree, c: Tree, batch: Batch) -> Tensor:
        losses = self.losses(params, batch.labelled)
        weights = weights_of_losses(c, losses)
        loss: Tensor = (weights * losses).sum()
        return loss / (shard_sum(weights.sum()) / shard_count() if self.normalize else len(weights))

    def measure(self, meta: Tree) -> dict[str, float]:
        """The weight of a row with a small and of one with a large loss."""
        return weights_at(meta)

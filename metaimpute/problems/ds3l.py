"""Safe deep semi-supervised learning (DS3L): a learned function from an unlabelled row's loss to its weight.

Guo, Zhang, Jiang, Li and Zhou (ICML 2020): the inner loss is that of the labels plus ``lambda * mean(w(u; alpha) *
Omega(u))``, where Omega is the base method's consistency loss of an unlabelled row; the outer loss is that of the labels,
after one step. Here w sees Omega(u) itself; the paper leaves its input open.
"""

from __future__ import annotations

from torch import Tensor

from ..batches import Batch
from ..engine.pytree import Tree
from ..ranges import Count
from .base import BilevelProblem, Sizes, register_problem
from .functions import init_function, weights_at, weights_of_losses


@register_problem("ds3l")
class DS3L(BilevelProblem):
    """Weights of the unlabelled rows as a function of their consistency losses (Guo et al., 2020).

    Args:
        width: hidden units of the function.
    """

    dealt_coupling = "whole"
    width: Count = 100

    def init_meta(self, sizes: Sizes) -> dict[str, Tensor]:
        return init_function(1, self.width)

    def inner_loss(self, params: Tree, c: Tree, batch: Batch) -> Tensor:
        supervised, losses = self.parts(params, batch)
        weights = weights_of_losses(c, losses)
        return supervised + self.method.lookahead_weight(batch.progress) * (weights * losses).mean()

    def measure(self, meta: Tree) -> dict[str, float]:
        """The weight of a row with a small and of one with a large loss."""
        return weights_at(meta)

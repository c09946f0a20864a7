"""Differentiable architecture search: weights of the operations that a network mixes.

Liu, Simonyan and Yang ("DARTS", ICLR 2019, Algorithm 1): with w the network's weights and alpha those of the operations,

    alpha  <-  alpha - beta d/dalpha L_val(w - xi grad_w L_train(w, alpha), alpha)      w  <-  w - eta grad_w L_train(w, alpha)

The paper approximates the derivative by a finite difference of gradients (Eq. 8: ``estimator: finite_difference``); ``exact`` and
``mixed`` take it as it is. xi is ``problem.inner.lr``; the two halves of the labels are ``holdout: separate``.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from ..batches import Batch, Labelled
from ..engine.pytree import Tree
from ..ranges import NonNegative
from .base import Adapt, BilevelProblem, Context, ProblemError, Sizes, register_problem


@register_problem("darts")
class DARTS(BilevelProblem):
    """Weights of mixed operations, learned on held-out labels (Liu et al., 2019).

    What is searched are the buffers called ``alpha`` of the network, one vector for each edge, such as those of model
    ``mixed_cnn``.

    Args:
        spread: standard deviation of the weights' start, before the softmax.
    """

    dealt_coupling = "whole"
    uses_unlabelled = False

    spread: NonNegative = 1e-3

    def bind(self, context: Context) -> BilevelProblem:
        if not self._names(context.model.module):
            raise ProblemError("darts searches among mixed operations, and the network has none; use model mixed_cnn")
        return super().bind(context)

    def _names(self, module: nn.Module) -> list[str]:
        return [name for name, _ in module.named_buffers() if name.rpartition(".")[2] == "alpha"]

    def init_meta(self, sizes: Sizes) -> dict[str, Tensor]:
        module = self.context.model.module
        return {
            name: self.spread * torch.randn(module.get_buffer(name).shape, device="cpu") for name in self._names(module)
        }

    def inner_loss(self, params: Tree, c: Tree, batch: Batch) -> Tensor:
        return self.method.loss(lambda own, inputs: self.predict({**own, **c}, inputs), params, batch)

    def outer_loss(self, params: Tree, c: Tree, holdout: Labelled) -> Tensor:
        return super().outer_loss({**params, **c}, c, holdout)

    def evaluated(self, module: nn.Module, meta: Tree, adapt: Adapt) -> nn.Module:
        """The network with the weights that have been learned."""
        found = copy.deepcopy(module)
        for name, value in meta.items():
            found.get_buffer(name).copy_(value)
        return found

    def measure(self, meta: Tree) -> dict[str, float]:
        """``largest_share``: of the operation that an edge weighs most, mean over edges; ``edge_i``: which one that is."""
        shares = [value.detach().softmax(0) for value in meta.values()]
        mean = sum(float(share.max()) for share in shares) / len(shares)
        return {"largest_share": mean} | {f"edge_{i}": float(share.argmax()) for i, share in enumerate(shares)}

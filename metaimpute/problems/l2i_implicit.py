"""L2I through the solution of a convex head: labels are judged by where training the last layer on them ends.

The look-ahead of "Learning to Impute" is a few steps; here it is the minimum of

    C_inner(h, Z) = C_T(h) + lambda C_U(h, Z) + l2/2 |h|^2       h: the last linear layer, on features that stay

which with a cross-entropy or a squared error of values is strongly convex, so that the implicit function theorem gives the
labels' hypergradient whatever way led there. Bertinetto et al. (ICLR 2019) and Lee et al. ("Meta-learning with differentiable
convex optimization", CVPR 2019) differentiate heads so; Pedregosa (ICML 2016) and Rajeswaran et al. (NeurIPS 2019) by conjugate
gradients (``estimator: cg``). The inner steps are there to reach the minimum.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..batches import Batch, Labelled
from ..batches.outputs import Output, Values
from ..engine.losses import StructuredLoss, is_like_cross_entropy
from ..engine.pytree import Tree, detach, tensors
from ..methods.base import Method
from ..ranges import Positive
from .base import BilevelProblem, Context, ProblemError, register_problem
from .l2i import L2I


@register_problem("l2i_implicit")
class L2IImplicit(L2I):
    """L2I whose look-ahead solves a convex head on the imputed labels (cross-entropy, or squared error of values).

    Args:
        l2: factor of half the squared length of the last layer's parameters, which makes the minimum one.
    """

    dealt_coupling = "rows"
    held = ("known", "unknown")
    l2: Positive = 0.01

    def check(self, method: Method, output: Output) -> None:
        if not method.uses_unlabelled and method.lookahead_weight(1.0) == 0:
            raise ProblemError("l2i_implicit trains on imputed labels, and method.weight leaves them out")

    def bind(self, context: Context) -> BilevelProblem:
        if context.path == "full":
            raise ProblemError("l2i_implicit solves for the last layer, wherever it starts; write problem.path: labels")
        _ = context.model.head  # which says what a model without one lacks
        super().bind(context)
        if not (isinstance(context.output, Values) or is_like_cross_entropy(self._measure)):
            raise ProblemError(
                "l2i_implicit needs a distance that is convex in the last layer, a cross-entropy, and the one of "
                f"{self.method.name} here is none; those of fixmatch, uda and pseudo_label are, with problem.distance: method"
            )
        return self

    @property
    def inner_is_base_loss(self) -> bool:
        return False

    def labels(self, c: Tree) -> Tensor:
        found: Tensor = c["labels"]
        return found

    def couple(self, meta: Tree, batch: Batch) -> Tree:
        """Labels, differentiable, and the features that the head is solved on, as they are."""
        model = self.context.model
        with torch.no_grad():
            known, unknown = self.method.forward(lambda inputs: model.features(meta, inputs), batch)
        return {"labels": self.psi(meta, batch), "known": known, "unknown": unknown}

    def fused_value(self, c: Tree, batch: Batch) -> Tree:
        return {**detach(c), "labels": batch.imputation.labels.detach()}

    def start(self, meta: Tree, params: Tree) -> Tree:
        return {name: params[name].detach() for name in self.context.model.head}

    def inner_loss(self, params: Tree, c: Tree, batch: Batch) -> Tensor:
        model = self.context.model
        raw = (model.readout(params, c["known"]), model.readout(params, c["unknown"]))
        size = torch.stack([leaf.square().sum() for leaf in tensors(params)]).sum()
        return self._readout_loss(raw, c, batch) + 0.5 * self.l2 * size

    def outer_loss(self, params: Tree, c: Tree, holdout: Labelled) -> Tensor:
        model = self.context.model
        with torch.no_grad():
            features = model.features(detach(model.params), holdout.inputs)
        return self.context.output.loss(model.readout(params, features), holdout.targets).mean()

    def structured_inner(self) -> StructuredLoss:
        return StructuredLoss(self.inner_loss)

    def structured_outer(self) -> StructuredLoss:
        return StructuredLoss(self.outer_loss)

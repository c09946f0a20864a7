"""L2I with labels as model output (O): the network learns to impute labels that help it on a hold-out batch.

Paper: OPT2 and Algorithm 1. meta = the network's parameters, c = Z = psi_theta(x_u) (line 7), inner loss
``C_T + lambda C_U(Z)`` (line 8; the algorithm box drops lambda, the text keeps it, so it is kept here), outer loss C_H
on the hold-out batch (line 10). The gradient reaches theta through Z alone (``path: labels``, as in the authors' code) or
through the start of the look-ahead as well (``path: full``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ..engine.losses import LabelRows, StructuredLoss, is_like_cross_entropy
from ..engine.pytree import Tree, as_leaves, detach, gradient, map_tensors, norm
from ..tasks.base import Batch, Imputation, Labelled
from .base import BilevelProblem, Learns, register_problem


@register_problem("l2i")
class L2I(BilevelProblem):
    """Learning to Impute, labels as model output (O; OPT2, Algorithm 1).

    Args:
        distance: ``method``: the base method's own consistency; ``squared_error``: that of activated outputs.
        mask: whether the base method's per-example weights (a confidence mask) apply in the look-ahead.
    """

    learns: ClassVar[Learns] = "network"

    distance: Literal["method", "squared_error"] = "method"
    mask: bool = True

    @property
    def inner_is_base_loss(self) -> bool:
        return self.context.inner == "all" and self.distance == "method" and self.mask

    def labels(self, c: Tree) -> Tensor:
        """Imputed labels ``[n, outputs]`` as a function of the coupling."""
        return c

    def couple(self, meta: Tree, batch: Batch) -> Tree:
        return self.method.psi(self.predict, meta, batch.unlabelled)

    def fused_value(self, c: Tree, batch: Batch) -> Tree:
        """The base step's own labels, so that its gradient is the look-ahead's; psi lends the derivative."""
        return batch.imputation.labels.detach()

    def inner_loss(self, params: Tree, c: Tree, batch: Batch) -> Tensor:
        raw = self.method.forward(lambda inputs: self.predict(params, inputs), batch)
        return self._readout_loss(raw, c, batch)

    def structured_inner(self) -> StructuredLoss:
        """Split into labelled and unlabelled parts unless they share a pass, and factored at the last linear layer."""
        model, method, head = self.context.model, self.method, self._head()
        split = not method.joint_forward

        def free(params: Tree, batch: Batch) -> Tensor:
            if self.context.inner == "unlabelled":
                return torch.zeros(())
            raw = method.forward_labelled(lambda inputs: self.predict(params, inputs), batch)
            return method.labelled_loss(raw, method.targets(batch.imputation, batch)[0], batch.progress)

        def coupled(params: Tree, c: Tree, batch: Batch) -> Tensor:
            raw = method.forward_unlabelled(lambda inputs: self.predict(params, inputs), batch)
            return self._unlabelled_part(raw, self._targets(c, batch)[1], batch)

        def features(params: Tree, batch: Batch) -> Tree:
            return method.forward(lambda inputs: model.features(params, inputs), batch)

        def readout(params: Tree, found: tuple[Tensor, Tensor], c: Tree, batch: Batch) -> Tensor:
            return self._readout_loss((model.readout(params, found[0]), model.readout(params, found[1])), c, batch)

        return StructuredLoss(
            self.inner_loss, free=free if split else None, coupled=coupled if split else None, head=head,
            features=features if head else None, readout=readout if head else None, label_rows=self._label_rows if head else None,
        )  # fmt: skip

    def _weights(self, batch: Batch) -> Tensor:
        weights = batch.imputation.weights
        return weights if self.mask else torch.ones_like(weights)

    def _targets(self, c: Tree, batch: Batch) -> tuple[Tensor, Imputation]:
        """What the method makes of the coupling's labels: targets of its labelled rows, labels of its unlabelled rows."""
        return self.method.targets(Imputation(self.labels(c), self._weights(batch)), batch)

    def _label_rows(self, c: Tree, found: tuple[Tensor, Tensor], batch: Batch) -> LabelRows:
        """The rows of unlabelled examples, and those of labelled ones where the coupling decides their targets too."""
        method, output = self.method, self.context.output
        known, imputed = self._targets(c, batch)
        labels, features = imputed.labels, found[1]
        weights = method.lookahead_weight(batch.progress) / len(labels) * imputed.weights
        as_printed = is_like_cross_entropy(self._measure, output.soft_loss)
        first = given = 0  # where the unlabelled rows begin, among the features and among the labels
        if self.context.inner == "all" and known.requires_grad:
            first, given = len(found[0]), len(known)
            labels, features = torch.cat([known, labels]), torch.cat(found)
            weights = torch.cat([weights.new_full((given,), 1 / given), weights])
            as_printed &= is_like_cross_entropy(method.labelled_loss, output.loss)

        def residual(theta: Tree, labels: Tensor) -> Tensor:
            raw = as_leaves(self.context.model.readout(theta, features))
            loss = self._unlabelled_part(raw[first:], Imputation(labels[given:], imputed.weights), batch)
            if given:
                loss = loss + method.labelled_loss(raw[:first], labels[:given], batch.progress)
            return gradient(loss, raw, create_graph=True)

        return LabelRows(labels, weights, features, None if as_printed else residual)

    @property
    def _measure(self) -> Callable[[Tensor, Tensor], Tensor]:
        return self.context.output.squared_error if self.distance == "squared_error" else self.method.consistency

    def _unlabelled_part(self, raw: Tensor, rows: Imputation, batch: Batch) -> Tensor:
        each = rows.weights * self._measure(raw, rows.labels)
        return self.method.lookahead_weight(batch.progress) * each.mean()

    def _readout_loss(self, raw: tuple[Tensor, Tensor], c: Tree, batch: Batch) -> Tensor:
        known, rows = self._targets(c, batch)
        loss = self._unlabelled_part(raw[1], rows, batch)
        if self.context.inner == "all":
            loss = loss + self.method.labelled_loss(raw[0], known, batch.progress)
        return loss


@register_problem("zero_hypergradient")
class ZeroHypergradient(L2I):
    """Control: L2I's two optimiser steps with the hypergradient replaced by zeros.

    With one optimiser for both steps its momentum carries the base gradient into the second one. A gain of L2I over this
    control is not "one more base step".
    """

    needs_estimate = False

    def control(self, hypergradient: Tree, params: Tree, holdout: Labelled, rng: torch.Generator) -> Tree:
        return map_tensors(torch.zeros_like, detach(params))


@register_problem("random_direction")
class RandomDirection(L2I):
    """Control: L2I with the hypergradient replaced by a random direction of the same norm."""

    def control(self, hypergradient: Tree, params: Tree, holdout: Labelled, rng: torch.Generator) -> Tree:
        noise = map_tensors(lambda g: torch.randn(g.shape, generator=rng).to(g), hypergradient)
        scale = norm(hypergradient) / norm(noise)
        return map_tensors(lambda g: g * scale, noise)


@register_problem("holdout_supervision")
class HoldoutSupervision(L2I):
    """Control: the plain gradient of the hold-out loss at the current parameters, in the hypergradient's place.

    It sees the same hold-out batch under the same views. A gain of L2I over this control is not "extra supervision".
    """

    needs_estimate = False

    def control(self, hypergradient: Tree, params: Tree, holdout: Labelled, rng: torch.Generator) -> Tree:
        at = map_tensors(lambda p: p.detach().requires_grad_(), params)
        return gradient(self.supervised(at, holdout), at)

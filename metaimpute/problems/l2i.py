"""L2I with labels as model output (O): the network learns to impute labels that help it on a hold-out batch.

Paper: OPT2 and Algorithm 1. meta = the network's parameters, c = Z = psi_theta(x_u) (line 7), inner loss
``C_T + lambda C_U(Z)`` (line 8, in the form that :mod:`.forms` has it), outer loss C_H on the hold-out batch (line 10). The
gradient reaches theta through Z alone (``path: labels``, as in the authors' code) or through the start of the look-ahead as well
(``path: full``).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor

from ..batches import Batch, Imputation, Labelled
from ..engine.losses import (
    Factored,
    LabelRows,
    Split,
    StructuredLoss,
    averages_outputs,
    is_like_cross_entropy,
    is_squared_error,
)
from ..engine.own_part import shard_count
from ..engine.pytree import Tree, as_leaves, detach, gradient, map_tensors, norm
from .base import BilevelProblem, Context, Learns, register_problem
from .forms import FORMS, Distance, Form, InnerWeight, Mask, Reduction


@register_problem("l2i")
class L2I(BilevelProblem):
    """Learning to Impute, labels as model output (O; OPT2, Algorithm 1).

    The options say what the look-ahead minimises; None is what ``form`` has (:mod:`.forms`).

    Args:
        reduction: ``mean`` or ``sum``, over rows and, for a distance that averages them, outputs.
        inner_weight: factor of the unlabelled loss: the base method's ``lambda``, or ``one``.
        distance: ``method``: the base method's own consistency; ``squared_error``: that of activated outputs.
        mask: the base method's per-example weights (a confidence mask) in the look-ahead: ``kept`` (or true), ``recomputed``
            after the base step, or none (false).
        sharpened: whether psi sharpens where the base method does (MixMatch, UDA).
    """

    dealt_coupling = "rows"
    learns: ClassVar[Learns] = "network"

    reduction: Reduction | None = None
    inner_weight: InnerWeight | None = None
    distance: Distance | None = None
    mask: Mask | None = None
    sharpened: bool | None = None

    def bind(self, context: Context) -> BilevelProblem:
        super().bind(context)
        self._form = self._chosen()
        return self

    @property
    def form(self) -> Form:
        """The form with this problem's own options in it, as they were when it was bound: torch.compile reads it as it stands."""
        return self._form

    def _chosen(self) -> Form:
        options = (field.name for field in dataclasses.fields(Form))
        chosen = {name: getattr(self, name, None) for name in options} | {"inner_loss": self.context.inner}
        return dataclasses.replace(FORMS[self.context.form], **{k: v for k, v in chosen.items() if v is not None})

    @property
    def inner_is_base_loss(self) -> bool:
        form = self.form
        return (
            (form.inner_loss, form.reduction, form.inner_weight) == ("all", "mean", "lambda")
            and self._measures_as_the_method
            and form.mask in ("kept", True)
        )

    @property
    def remasks(self) -> bool:  # type: ignore[override]  # an option's, not the class's
        return self.form.mask == "recomputed"

    def labels(self, c: Tree) -> Tensor:
        """Imputed labels ``[n, outputs]`` as a function of the coupling."""
        found: Tensor = c
        return found

    def couple(self, meta: Tree, batch: Batch) -> Tree:
        return self.psi(meta, batch)

    def psi(self, params: Tree, batch: Batch) -> Tensor:
        """The imputer, sharpened as the form has it, ``[n, outputs]``."""
        method = self.method if self.form.sharpened else self.method.unsharpened()
        return method.psi(self.predict, params, batch.unlabelled)

    def fused_value(self, c: Tree, batch: Batch) -> Tree:
        """The base step's own labels, so that its gradient is the look-ahead's; psi lends the derivative."""
        return batch.imputation.labels.detach()

    def inner_loss(self, params: Tree, c: Tree, batch: Batch) -> Tensor:
        raw = self.method.forward(lambda inputs: self.predict(params, inputs), batch)
        return self._readout_loss(raw, c, batch)

    def structured_inner(self) -> StructuredLoss:
        """Split into labelled and unlabelled parts unless they share a pass, and factored at the last linear layer."""
        model, method, head = self.context.model, self.method, self._head()
        alone = self.form.inner_loss == "unlabelled"

        def free(params: Tree, batch: Batch) -> Tensor:
            if alone:
                return torch.zeros((), device="cpu")
            raw = method.forward_labelled(lambda inputs: self.predict(params, inputs), batch)
            return self._labelled_part(raw, method.targets(batch.imputation, batch)[0], batch)

        def coupled(params: Tree, c: Tree, batch: Batch) -> Tensor:
            raw = method.forward_unlabelled(lambda inputs: self.predict(params, inputs), batch)
            return self._unlabelled_part(raw, self._targets(c, batch)[1], batch)

        def features(params: Tree, batch: Batch) -> Tree:
            return method.forward(lambda inputs: model.features(params, inputs), batch)

        def labelled_features(params: Tree, batch: Batch) -> Tree:
            return method.forward_labelled(lambda inputs: model.features(params, inputs), batch)

        def unlabelled_features(params: Tree, batch: Batch) -> Tree:
            return method.forward_unlabelled(lambda inputs: model.features(params, inputs), batch)

        def readout(params: Tree, found: tuple[Tensor, Tensor], c: Tree, batch: Batch) -> Tensor:
            return self._readout_loss((model.readout(params, found[0]), model.readout(params, found[1])), c, batch)

        apart = not method.joint_forward
        factored = Factored(
            (labelled_features, unlabelled_features) if apart else features, readout, label_rows=self._label_rows
        )
        return StructuredLoss(
            self.inner_loss, head, Split(free, coupled) if apart else None, factored if head else None
        )

    def _weights(self, batch: Batch) -> Tensor:
        weights = batch.imputation.weights
        return torch.ones_like(weights) if self.form.mask is False else weights

    def _targets(self, c: Tree, batch: Batch) -> tuple[Tensor, Imputation]:
        """What the method makes of the coupling's labels: targets of its labelled rows, labels of its unlabelled rows."""
        return self.method.targets(Imputation(self.labels(c), self._weights(batch)), batch)

    def _label_rows(self, c: Tree, found: tuple[Tensor, Tensor], batch: Batch) -> LabelRows:
        """The rows of unlabelled examples, and those of labelled ones where the coupling decides their targets too."""
        method, output = self.method, self.context.output
        known, imputed = self._targets(c, batch)
        labels, features = imputed.labels, found[1]
        weights = self._unlabelled_factor(len(labels), batch) / len(labels) * imputed.weights
        as_printed = is_like_cross_entropy(self._measure, output.soft_loss)
        first = given = 0  # where the unlabelled rows begin, among the features and among the labels
        if self.form.inner_loss == "all" and known.requires_grad:
            first, given = len(found[0]), len(known)
            labels, features = torch.cat([known, labels]), torch.cat(found)
            weights = torch.cat([weights.new_full((given,), self._labelled_factor(given) / given), weights])
            as_printed &= is_like_cross_entropy(method.labelled_loss, output.loss)

        def residual(theta: Tree, labels: Tensor) -> Tensor:
            raw = as_leaves(self.context.model.readout(theta, features))
            loss = self._unlabelled_part(raw[first:], Imputation(labels[given:], imputed.weights), batch)
            if given:
                loss = loss + self._labelled_part(raw[:first], labels[:given], batch)
            found: Tensor = gradient(loss, raw, create_graph=True)
            return found

        return LabelRows(labels, weights, features, None if as_printed else residual)

    @property
    def _measure(self) -> Callable[[Tensor, Tensor], Tensor]:
        by_itself = self.form.distance == "squared_error"
        return self.context.output.squared_error if by_itself else self.method.consistency

    @property
    def _measures_as_the_method(self) -> bool:
        return self.form.distance == "method" or is_squared_error(self.method.consistency)

    def _unlabelled_factor(self, rows: int, batch: Batch) -> float:
        """What the mean distance of that many rows is multiplied by."""
        form = self.form
        weight = self.method.lookahead_weight(batch.progress) if form.inner_weight == "lambda" else 1.0
        if form.reduction == "mean":
            return weight
        output, measure = self.context.output, self._measure
        soft = is_like_cross_entropy(measure) and averages_outputs(
            output.soft_loss
        )  # the output's own distance of values
        return weight * rows * shard_count() * (output.size if soft or averages_outputs(measure) else 1)

    def _labelled_factor(self, rows: int) -> float:
        if self.form.reduction == "mean":
            return 1.0
        return float(
            rows * shard_count() * (self.context.output.size if averages_outputs(self.context.output.loss) else 1)
        )

    def _unlabelled_part(self, raw: Tensor, rows: Imputation, batch: Batch) -> Tensor:
        each = rows.weights * self._measure(raw, rows.labels)
        return self._unlabelled_factor(len(each), batch) * each.mean()

    def _labelled_part(self, raw: Tensor, known: Tensor, batch: Batch) -> Tensor:
        loss, factor = self.method.labelled_loss(raw, known, batch.progress), self._labelled_factor(len(known))
        return loss if factor == 1.0 else factor * loss

    def _readout_loss(self, raw: tuple[Tensor, Tensor], c: Tree, batch: Batch) -> Tensor:
        known, rows = self._targets(c, batch)
        loss = self._unlabelled_part(raw[1], rows, batch)
        if self.form.inner_loss == "all":
            loss = loss + self._labelled_part(raw[0], known, batch)
        return loss


@register_problem("zero_hypergradient")
class ZeroHypergradient(L2I):
    """Control: L2I's two optimiser steps with the hypergradient replaced by zeros.

    With one optimiser for both steps its momentum carries the base gradient into the second one. A gain of L2I over this
    control is not "one more base step".
    """

    dealt_coupling = "rows"
    needs_estimate = False

    def control(self, hypergradient: Tree, params: Tree, holdout: Labelled, rng: torch.Generator) -> Tree:
        return map_tensors(torch.zeros_like, detach(params))


@register_problem("random_direction")
class RandomDirection(L2I):
    """Control: L2I with the hypergradient replaced by a random direction of the same norm."""

    dealt_coupling = "rows"

    def control(self, hypergradient: Tree, params: Tree, holdout: Labelled, rng: torch.Generator) -> Tree:
        noise = map_tensors(lambda g: torch.randn(g.shape, generator=rng, device="cpu").to(g), hypergradient)
        scale = norm(hypergradient) / norm(noise)
        return map_tensors(lambda g: g * scale, noise)


@register_problem("holdout_supervision")
class HoldoutSupervision(L2I):
    """Control: the plain gradient of the hold-out loss at the current parameters, in the hypergradient's place.

    It sees the same hold-out batch under the same views. A gain of L2I over this control is not "extra supervision".
    """

    dealt_coupling = "rows"
    needs_estimate = False

    def control(self, hypergradient: Tree, params: Tree, holdout: Labelled, rng: torch.Generator) -> Tree:
        at = map_tensors(lambda p: p.detach().requires_grad_(), params)
        return gradient(self.supervised(at, holdout), at)


@register_problem("lookahead_supervision")
class LookaheadSupervision(HoldoutSupervision):
    """Control: the plain gradient of the hold-out loss at the look-ahead's end, applied where the look-ahead began.

    What ``path: full`` with ``first_order`` gives: supervision at a point that a step on the imputed labels has moved to, without
    any second derivative. A gain of L2I over this control is not "supervision from another point".
    """

    dealt_coupling = "rows"
    needs_estimate = True
    controls_at = "end"

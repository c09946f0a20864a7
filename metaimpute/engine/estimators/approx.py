"""Eq. 6 of "Learning to Impute": the last layer's closed form from features, for any consistency loss.

With features f, residuals ``p* - y`` of the hold-out rows after one step of the last layer, and the kernel
``K[h, u] = f*(h) . f(u) + 1`` (the 1 is the bias), the label gradient of unlabelled row u is

    G[u] = eta * sum_h K[h, u] (p*(h) - y(h))

Since ``sum_h (p* - y)(h) f*(h)^T`` is the outer loss's gradient V with respect to the last weight, ``G[u] = eta (V f(u) + v_b)``:
the kernel is never formed. That is the exact gradient of the last-layer inner problem for cross-entropy, up to a constant per
row, which a softmax imputer removes.

For another loss l the residual of row u is ``r = d l(raw, z) / d raw`` instead of ``p - z``, and

    G[u] = -(d r / d z)^T eta (V f(u) + v_b)

The factor is ``2 / D`` for the squared error of D values, ``2 / K (diag p - p p^T)`` for that of K probabilities; it is taken by
differentiating the residual, on ``[rows, outputs]`` numbers, and is exact for every loss.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..losses import LabelRows, StructuredLoss
from ..optimizers import apply_updates
from ..pytree import Tree, as_leaves, detach, gradient, tree_map, vjp_through
from ..unroll import OUTER_STREAM, BilevelMap
from .base import Estimator, EstimatorError, register_estimator
from .head import AtHead, plain, split
from .mixed import pull_back_update
from .result import HypergradientResult

Rows = Callable[[Tree, Tree, Any], LabelRows]


@register_estimator("approx")
class Approx(Estimator):
    """The paper's Eq. 6: one inner step of the last layer, label gradient from feature similarities.

    As printed for cross-entropy, with the loss's own residual for any other: ``head`` with one step, up to a constant per row
    of cross-entropy's labels. Needs losses that are factored at the last linear layer and name their label rows. Costs one
    evaluation of the network per batch and no backward pass through it.
    """

    unrolls = False
    exact = False
    gives_first_gradient = False
    dropped = "inner step outside the last layer"
    max_steps = 1
    start_path = False
    moves_all = False
    sharded = True

    @staticmethod
    def _structure(problem: BilevelMap) -> tuple[tuple[str, ...], AtHead, AtHead, Rows]:
        """Names of the last layer's parameters, both losses factored at it, and the label rows."""
        inner, outer = problem.inner_loss, problem.outer_loss
        if not (isinstance(inner, StructuredLoss) and isinstance(outer, StructuredLoss)):
            raise EstimatorError(
                "'approx' (Eq. 6) needs losses factored at a last linear layer; use 'mixed' or 'exact'"
            )
        if inner.factored is None or outer.factored is None or inner.factored.label_rows is None:
            raise EstimatorError("'approx' (Eq. 6) needs label rows and a last linear layer; use 'mixed' or 'exact'")
        return inner.head, AtHead(inner, inner.factored), AtHead(outer, outer.factored), inner.factored.label_rows

    def plain(self, problem: BilevelMap) -> tuple[Tensor, Tree]:
        return plain(problem, self._structure(problem)[0])

    def differentiate(self, problem: BilevelMap) -> HypergradientResult:
        names, inner, outer, label_rows = self._structure(problem)
        batch = problem.inner_batch(0)
        theta = detach(problem.theta_0)
        head, body = split(theta, names)
        with torch.no_grad():
            features = inner.features(problem, 0, theta, batch)
            holdout_features = outer.features(problem, OUTER_STREAM, theta, problem.batches.outer)

        at, c = as_leaves(head), as_leaves(problem.c)
        loss = inner.readout({**body, **at}, features, detach(c), batch)
        grads = gradient(loss, at)
        state = problem.optimizer.init(head)
        with torch.no_grad(), problem.drawing(0):
            updates, new_state = problem.optimizer.update(grads, state, head, detach(problem.optimizer.hyper))
            moved = apply_updates(head, updates)

        end = as_leaves(moved)
        outer_value = outer.readout({**body, **end}, holdout_features, c, problem.batches.outer)
        direct = gradient(outer_value, {"head": end, "c": c})
        no_cotangent = tree_map(lambda s: torch.zeros_like(s) if isinstance(s, torch.Tensor) else s, new_state)
        step, _, _, to_hyper = pull_back_update(
            problem, 0, grads, state, head, (direct["head"], no_cotangent), (moved, new_state)
        )

        own, own_c = inner.loss.enter(theta, c)
        step, _ = inner.loss.enter(step, None)  # whole where parameters are in shards
        with inner.loss.within():
            rows = label_rows(own_c, features, batch)
            similarity = rows.features @ step[names[0]].T
            if len(names) == 2:
                similarity = similarity + step[names[1]]
            if rows.residual is None:
                label_gradient = -rows.weights[:, None] * similarity
            else:
                labels = as_leaves(rows.labels)
                label_gradient = vjp_through(rows.residual(own, labels), similarity, labels)
        label_gradient = inner.loss.share(label_gradient)
        grad_c = tree_map(lambda a, b: a + b, vjp_through(rows.labels, label_gradient, c), direct["c"])
        return HypergradientResult(
            grad_c=grad_c,
            grad_theta_0=None,
            grad_optimizer=to_hyper,
            outer_loss=outer_value.detach(),
            theta_k={**theta, **detach(moved)},
            diagnostics={"inner_losses": [loss.detach()], "moved": names},
        )

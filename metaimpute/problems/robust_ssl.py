"""Robust semi-supervised learning: weights of unlabelled rows, in the loss and in the statistics of BatchNorm.

Zhao, Killamsetty, Iyer and Chen ("Robust semi-supervised learning with out of distribution data", 2020): rows that are like no
labelled one hurt through their losses and through the statistics that all rows are normalised with. The inner loss is that of
the labels plus ``lambda * mean(w_u * loss_u)``, labelled and unlabelled rows passing the network together, normalised by
statistics weighted by ``w_u`` (and one for labelled rows); the outer loss is that of held-out labels. Their clusters of
weights are left out: there is one for every unlabelled row, as in :mod:`.unlabelled_weights`.
"""

from __future__ import annotations

import contextlib

import torch
from torch import Tensor

from ..batches import Batch
from ..batches.outputs import Output
from ..engine.pytree import Tree
from ..methods.base import Method, concatenate
from .base import ProblemError, register_problem
from .unlabelled_weights import UnlabelledWeights
from .weighted_norm import weighted_statistics


@register_problem("robust_ssl")
class RobustSSL(UnlabelledWeights):
    """Weights of the unlabelled rows, in loss and BatchNorm alike (Zhao et al., 2020).

    Args:
        weighted_norm: false: statistics of BatchNorm are those of all rows alike.
    """

    weighted_norm: bool = True

    def check(self, method: Method, output: Output) -> None:
        super().check(method, output)
        if type(method).forward_unlabelled is not Method.forward_unlabelled:
            raise ProblemError(
                "robust_ssl takes one pass through the network for all rows, and "
                f"'{method.name}' has one of its own for some of them; take unlabelled_weights"
            )

    def inner_loss(self, params: Tree, c: Tree, batch: Batch) -> Tensor:
        method, known = self.method, len(batch.labelled.targets)
        targets, rows = method.targets(batch.imputation, batch)
        weights: Tensor = c.repeat(len(rows.labels) // len(c))  # methods of several copies have them one after another
        together = concatenate(*method.inputs(batch))
        with (
            weighted_statistics(torch.cat([c.new_ones(known), weights]))
            if self.weighted_norm
            else contextlib.nullcontext()
        ):
            raw = self.predict(params, together)
        losses = rows.weights * method.consistency(raw[known:], rows.labels)
        supervised = method.labelled_loss(raw[:known], targets, batch.progress)
        return supervised + method.lookahead_weight(batch.progress) * (weights * losses).mean()

"""What is measured of a step beside what it needs: nothing in training depends on it."""

from __future__ import annotations

import torch
from torch import Tensor

from ..batches import Batch, Labelled
from ..batches.outputs import Classes
from ..engine import HypergradientResult
from ..engine.pytree import Tree, cosine, detach, gradient, map_tensors, tensors
from ..methods.base import Method
from ..problems.base import BilevelProblem


def of_lookahead(
    problem: BilevelProblem, params: Tree, batch: Batch, holdout: Labelled, applied: Tree, result: HypergradientResult
) -> dict[str, Tensor | float]:
    """What the look-ahead does and what the hypergradient asks for.

    ``holdout_linear``: change of the hold-out loss that its gradient at the start predicts for the look-ahead; what the
    true change has beyond it is curvature. ``cosine_holdout``: of the applied direction with that gradient.
    ``label_alignment``: of the labels' descent direction with the way from the base step's labels to the true ones, over the
    unlabelled batch; 0 where the labels that count are right.
    """
    at = map_tensors(lambda p: p.detach().requires_grad_(), params)
    slope = gradient(problem.supervised(at, holdout), at)
    before, after = tensors(detach(params)), tensors(result.theta_k)
    measures: dict[str, Tensor | float] = {}
    if [leaf.shape for leaf in before] == [leaf.shape for leaf in after]:  # else the look-ahead moves other parameters
        pairs = zip(tensors(slope), before, after, strict=True)
        measures["holdout_linear"] = torch.stack([(g * (end - start)).sum() for g, start, end in pairs]).sum()
    if problem.learns == "network":
        measures["cosine_holdout"] = cosine(slope, applied)
    truth, grad, labels, output = batch.unlabelled.truth, result.grad_c, batch.imputation.labels, problem.method.output
    if truth is not None and isinstance(grad, Tensor) and grad.shape == labels.shape:
        way = output.towards(labels, truth)
        if way is not None:
            within = grad - grad.mean(-1, keepdim=True) if isinstance(output, Classes) else grad  # of the simplex
            measures["label_alignment"] = cosine(-within, way)
    return measures


def of_imputation(method: Method, batch: Batch) -> dict[str, Tensor | float]:
    """Share of imputed labels that count, and of those with a known truth that are right."""
    labels, weights = batch.imputation.labels, batch.imputation.weights
    found: dict[str, Tensor | float] = {"mask_rate": weights.mean()}
    truth = batch.unlabelled.truth
    if truth is not None and method.uses_unlabelled:
        known = (
            truth >= 0 if truth.ndim == 1 and not truth.is_floating_point() else torch.isfinite(truth).flatten(1).all(1)
        )
        if bool(known.any()):
            right = method.output.agreement(labels[known], truth[known])
            found["imputed_accuracy"] = right.mean()
            used = weights[known] > 0
            if bool(used.any()):
                found["imputed_accuracy_used"] = right[used].mean()
    return found

"""Losses scaled for low precision: gradients that float16 would round to zero are carried a factor larger.

The inner loss times ``s`` with its gradients divided by ``s`` before the rule takes the same steps; the outer loss times ``s``
has ``s`` times the hypergradient, which is divided in the end (Micikevicius et al., "Mixed precision training", ICLR 2018). Every
backward pass, those of the inner gradients' own derivatives too, is of scaled numbers.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from .estimators import Estimator, EstimatorError, HypergradientResult
from .losses import Factored, Loss, Split, StructuredLoss
from .optimizers import InnerOptimizer, chain, gradient_callback
from .pytree import Tree, map_tensors, norm

UNSCALABLE = (
    "approx",
    "cg",
    "neumann",
    "es",
)  # a closed form of the loss; its Hessian, whose inverse would be scaled; no gradient


def require_scale(scale: object, estimator: Estimator, *losses: Loss) -> float:
    """Raises:
    EstimatorError: for what is no positive number, or cannot be scaled."""
    if isinstance(scale, bool) or not isinstance(scale, int | float) or not 0 < scale < math.inf:
        raise EstimatorError(f"loss_scale is a positive number, such as 2.0**12, not {scale!r}")
    if scale != 1.0 and estimator.name in UNSCALABLE:
        raise EstimatorError(
            f"loss_scale does not go with '{estimator.name}'; take 'exact' or 'mixed', or leave it at 1"
        )
    if scale != 1.0 and any(isinstance(loss, StructuredLoss) for loss in losses):
        raise EstimatorError("loss_scale takes plain losses (params, coupling, batch) -> scalar, not a StructuredLoss")
    return float(scale)


def times(scale: float | Tensor, loss: Loss) -> Loss:
    """The loss times a factor, in float32 where it is lower: the product may be above what float16 holds."""

    def scaled(params: Tree, coupling: Tree, batch: Any) -> Tensor:
        found = loss(params, coupling, batch)
        wide = found.float() if isinstance(found, Tensor) and found.dtype.itemsize < 4 else found
        return scale * wide

    return scaled


def structured_times(scale: float | Tensor, loss: StructuredLoss) -> StructuredLoss:
    """Likewise of a loss with its structure, but for the label rows of ``approx``, which takes a closed form of the loss."""
    split, factored = loss.split, loss.factored
    if split is not None:
        free = split.free
        split = Split(lambda params, batch: scale * free(params, batch), times(scale, split.coupled))
    if factored is not None:
        readout = factored.readout
        factored = Factored(factored.features, lambda *given: scale * readout(*given))
    return replace(loss, whole=times(scale, loss.whole), split=split, factored=factored)


def divided(scale: float | Tensor, rule: InnerOptimizer) -> InnerOptimizer:
    """The rule, for gradients of a loss times a factor."""
    return chain(gradient_callback(lambda grads: map_tensors(lambda g: g / scale, grads), per_entry=True), rule)


def unscaled(scale: float, found: HypergradientResult) -> HypergradientResult:
    """The result of scaled losses as that of the losses themselves, with a warning where it is not finite."""
    if not bool(torch.isfinite(norm(found.grad_c))):
        warnings.warn(
            f"the hypergradient is not finite with loss_scale={scale:g}; take a smaller one, or see whether the losses are",
            stacklevel=3,
        )
    return of_the_losses_themselves(scale, found)


def of_the_losses_themselves(scale: float | Tensor, found: HypergradientResult) -> HypergradientResult:
    """The result of scaled losses as that of the losses themselves."""

    def own(tree: Any) -> Any:
        return None if tree is None else map_tensors(lambda leaf: leaf / scale, tree)

    errors = {key: own(value) for key, value in found.diagnostics.items() if key.startswith("standard_error")}
    scalars = ("hypergradient_norm", "outer_loss_start")
    sizes = {key: found.diagnostics[key] / scale for key in scalars if key in found.diagnostics}
    losses = {"inner_losses": [loss / scale for loss in found.diagnostics.get("inner_losses", ())]}
    return replace(
        found, grad_c=own(found.grad_c), grad_theta_0=own(found.grad_theta_0), grad_optimizer=own(found.grad_optimizer),
        outer_loss=found.outer_loss / scale, first_gradient=own(found.first_gradient),
        diagnostics={**found.diagnostics, **errors, **sizes, **losses, "loss_scale": scale},
    )  # fmt: skip

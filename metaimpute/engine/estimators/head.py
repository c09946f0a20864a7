"""Exact hypergradient of the inner problem restricted to the last linear layer (or another named subset)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from ..functional import derive_seed, fixed_rng
from ..losses import StructuredLoss
from ..optimizers import hyper_as_leaves, hyper_tensors
from ..pytree import Tree, as_leaves, detach, gradient
from ..unroll import OUTER_STREAM, Batches, BilevelMap, run
from .base import Estimator, EstimatorError, HypergradientResult, register_estimator


def subset_names(problem: BilevelMap, parameters: tuple[str, ...]) -> tuple[str, ...]:
    """The parameters the inner step moves: those asked for, else the last linear layer of a structured loss."""
    names = parameters
    if not names and isinstance(problem.inner_loss, StructuredLoss):
        names = problem.inner_loss.head
    if not isinstance(problem.theta_0, dict) or not names:
        raise EstimatorError(
            "'head' needs parameters by name: give parameters=(...) or a loss that names its last layer"
        )
    missing = [name for name in names if name not in problem.theta_0]
    if missing:
        raise EstimatorError(f"'head' was asked to move '{missing[0]}', which is not a parameter")
    return tuple(names)


def split(theta: dict[str, Any], names: tuple[str, ...]) -> tuple[dict[str, Any], dict[str, Any]]:
    return {n: theta[n] for n in names}, {n: p for n, p in theta.items() if n not in names}


def features_of(problem: BilevelMap, loss: StructuredLoss, t: int, theta: Tree, batch: Any) -> Tree:
    """The network up to its last layer, under the noise of step ``t``; with a graph only if the start's path is wanted."""
    assert loss.features is not None
    with torch.set_grad_enabled(problem.wrt_start), fixed_rng(derive_seed(problem.seed, t)):
        return loss.features(theta, batch)


def restrict(problem: BilevelMap, names: tuple[str, ...], theta: dict[str, Any]) -> BilevelMap:
    """The same bilevel map with everything but ``names`` held fixed; features are computed once where losses allow."""
    head, body = split(theta, names)
    inner, outer = problem.inner_loss, problem.outer_loss
    inner_batches: list[Any] = [problem.inner_batch(t) for t in range(len(problem.batches.inner))]
    outer_batch = problem.batches.outer
    whole = BilevelMap(
        lambda th, c, batch: inner({**body, **th}, c, batch),
        lambda th, c, batch: outer({**body, **th}, c, batch),
        head, problem.c, Batches(inner_batches, outer_batch), problem.optimizer, problem.steps, problem.memory,
        problem.seed, problem.wrt_start,
    )  # fmt: skip
    if isinstance(inner, StructuredLoss) and inner.is_factored and set(inner.head) == set(names):
        readout = inner.readout
        assert readout is not None
        pairs = [(features_of(problem, inner, t, theta, b), b) for t, b in enumerate(inner_batches)]
        whole = replace(
            whole,
            inner_loss=lambda th, c, pair: readout({**body, **th}, pair[0], c, pair[1]),
            batches=Batches(pairs, outer_batch),
        )
    if isinstance(outer, StructuredLoss) and outer.is_factored and set(outer.head) == set(names):
        outer_readout = outer.readout
        assert outer_readout is not None
        pair = (features_of(problem, outer, OUTER_STREAM, theta, outer_batch), outer_batch)
        whole = replace(
            whole,
            outer_loss=lambda th, c, pair: outer_readout({**body, **th}, pair[0], c, pair[1]),
            batches=whole.batches._replace(outer=pair),
        )
    return whole


@register_estimator("head")
class Head(Estimator):
    """Exact for any k, optimiser and loss, with the inner steps moving only the last linear layer.

    The restricted map is ``theta_k = (body_0, head_k)``; its hypergradient is that of reverse mode through the small
    problem. Where the losses are factored the network runs once per batch, whatever k; a loss that is not factored is
    evaluated whole at every step.

    Args:
        parameters: names of the parameters that move instead of the last linear layer.
    """

    parameters: tuple[str, ...] = ()
    exact = False
    gives_first_gradient = False
    dropped = "inner steps of all parameters outside the head (exact for the restricted inner problem)"

    def differentiate(self, problem: BilevelMap) -> HypergradientResult:
        names = subset_names(problem, self.parameters)
        theta_0 = as_leaves(problem.theta_0) if problem.wrt_start else detach(problem.theta_0)
        small = restrict(problem, names, theta_0)
        head_0 = {n: theta_0[n] if problem.wrt_start else theta_0[n].requires_grad_() for n in names}
        c, hyper = as_leaves(problem.c), hyper_as_leaves(problem.optimizer.hyper)
        end = run(small, head_0, c, hyper, mode="full")
        outer = small.outer(end.params, c)
        wanted = {"c": c, "hyper": hyper_tensors(hyper), "theta": theta_0 if problem.wrt_start else None}
        grads = gradient(outer, wanted)
        return HypergradientResult(
            grad_c=grads["c"],
            grad_theta_0=grads["theta"],
            grad_optimizer=grads["hyper"],
            outer_loss=outer.detach(),
            theta_k=detach({**theta_0, **end.params}),
            diagnostics={"inner_losses": end.losses, "moved": names},
        )

"""Exact hypergradient of the inner problem restricted to the last linear layer (or another named subset)."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..losses import Factored, Features, StructuredLoss
from ..noise import derive_seed, fixed_rng
from ..optimizers import hyper_as_leaves, hyper_tensors
from ..pytree import Tree, as_leaves, detach, gradient
from ..unroll import OUTER_STREAM, Batches, BilevelMap, run
from .base import Estimator, EstimatorError, register_estimator
from .result import HypergradientResult


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


class AtHead(NamedTuple):
    """A loss with its factored form."""

    loss: StructuredLoss
    form: Factored

    def features(self, problem: BilevelMap, t: int, theta: Tree, batch: Any) -> Tree:
        """The network up to its last layer, under the noise of step ``t``; with a graph only if the start's path is wanted."""
        found = self.form.features
        with torch.set_grad_enabled(problem.wrt_start):
            theta, _ = self.loss.enter(theta, None)
            if isinstance(found, tuple):
                seeds = [derive_seed(problem.seed, t, part) for part in range(len(found))]
                return tuple(self._under(s, f, theta, batch) for s, f in zip(seeds, found, strict=True))
            return self._under(derive_seed(problem.seed, t), found, theta, batch)

    def _under(self, seed: int, features: Features, theta: Tree, batch: Any) -> Tree:
        with fixed_rng(seed), self.loss.within():
            return features(theta, batch)

    def readout(self, theta: Tree, features: Tree, c: Tree, batch: Any) -> Tensor:
        """The loss, from features of :meth:`features`."""
        theta, c = self.loss.enter(theta, c)
        with self.loss.within():
            value = self.form.readout(theta, features, c, batch)
        return self.loss.leave(value)


def restrict(problem: BilevelMap, names: tuple[str, ...], theta: dict[str, Any]) -> BilevelMap:
    """The same bilevel map with everything but ``names`` held fixed; features are computed once where losses allow.

    What the small problem depends on (the fixed parameters, the features) is part of its coupling ``{"c", "body", "inner",
    "outer"}``, so that gradients reach it under every memory policy.
    """
    head, body = split(theta, names)
    inner, outer = problem.inner_loss, problem.outer_loss
    batches = list(problem.batches.inner)
    held: dict[str, Any] = {"c": problem.c, "body": body}

    def factored(loss: Any) -> AtHead | None:
        fits = isinstance(loss, StructuredLoss) and set(loss.head) == set(names) and loss.factored is not None
        return AtHead(loss, loss.factored) if fits else None

    of_inner, of_outer = factored(inner), factored(outer)

    def small_inner(th: Tree, held: Tree, numbered: tuple[int, Any]) -> Tensor:
        place, batch = numbered
        params = {**held["body"], **th}
        if of_inner is None:
            return inner(params, held["c"], batch)
        return of_inner.readout(params, held["inner"][place], held["c"], batch)

    def small_outer(th: Tree, held: Tree, batch: Any) -> Tensor:
        params = {**held["body"], **th}
        if of_outer is None:
            return outer(params, held["c"], batch)
        return of_outer.readout(params, held["outer"], held["c"], batch)

    if of_inner is not None:
        held["inner"] = [of_inner.features(problem, t, theta, b) for t, b in enumerate(batches)]
    if of_outer is not None:
        held["outer"] = of_outer.features(problem, OUTER_STREAM, theta, problem.batches.outer)
    return BilevelMap(
        small_inner,
        small_outer,
        head,
        held,
        Batches(list(enumerate(batches)), problem.batches.outer),
        problem.optimizer,
        problem.steps,
        problem.memory,
        problem.seed,
        problem.wrt_start,
    )


def plain(problem: BilevelMap, names: tuple[str, ...]) -> tuple[Tensor, Tree]:
    """The outer loss and ``theta_k`` of steps that move ``names`` alone, without a derivative."""
    theta_0 = detach(problem.theta_0)
    small = restrict(problem, names, theta_0)
    held = {**small.c, "c": detach(problem.c)}
    end = run(small, small.theta_0, held, detach(problem.optimizer.hyper), mode="none")
    return small.outer(detach(end.params), held).detach(), detach({**theta_0, **end.params})


@register_estimator("head")
class Head(Estimator):
    """Exact for any k, optimiser and loss, with the inner steps moving only the last linear layer.

    The restricted map is ``theta_k = (body_0, head_k)``; its hypergradient is that of reverse mode through the small
    problem. Where the losses are factored the network runs once per batch, whatever k; a loss that is not factored is
    evaluated whole at every step. With one batch for several steps its features, and with them the noise in the body, are
    drawn once.

    Args:
        parameters: names of the parameters that move instead of the last linear layer.
    """

    parameters: tuple[str, ...] = ()

    unrolls = False
    moves_all = False
    staged = True
    sharded = True

    def named_parameters(self) -> tuple[str, ...]:
        return tuple(self.parameters)

    def __post_init__(self) -> None:
        if not isinstance(self.parameters, tuple | list):
            raise EstimatorError(f"'head' takes parameter names as a tuple, not {self.parameters!r}")

    exact = False
    gives_first_gradient = False
    uses_memory = True
    dropped = "inner steps of all parameters outside the head (exact for the restricted inner problem)"

    def plain(self, problem: BilevelMap) -> tuple[Tensor, Tree]:
        return plain(problem, subset_names(problem, self.parameters))

    def differentiate(self, problem: BilevelMap) -> HypergradientResult:
        names = subset_names(problem, self.parameters)
        theta_0 = as_leaves(problem.theta_0) if problem.wrt_start else detach(problem.theta_0)
        small = restrict(problem, names, theta_0)
        head_0 = {n: theta_0[n] if problem.wrt_start else theta_0[n].requires_grad_() for n in names}
        c, hyper = as_leaves(problem.c), hyper_as_leaves(problem.optimizer.hyper)
        held = {**small.c, "c": c}
        end = run(small, head_0, held, hyper, mode="full")
        outer = small.outer(end.params, held)
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

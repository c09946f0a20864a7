"""The estimator contract carried out by the ``higher`` package (Grefenstette et al. 2019), for comparison and trust.

The inner steps are taken by ``higher.optim``'s differentiable optimisers on the same pure losses, so that a difference
between the two backends is a difference of unrolls, not of models.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from .estimators.base import Estimator, EstimatorError
from .estimators.result import HypergradientResult
from .memory import Store
from .optimizers import Hyper, InnerOptimizer, hyper_as_leaves, hyper_tensors
from .pytree import as_leaves, detach, gradient
from .unroll import BilevelMap

_SUPPORTED = ("sgd", "momentum", "nesterov")
_HYPER = {"lr", "momentum", "dampening", "weight_decay"}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _differentiable_optimizer(optimizer: InnerOptimizer, params: dict[str, Tensor], hyper: Hyper, track: bool) -> Any:
    """``higher``'s optimiser for one of ours, one parameter group per parameter so that names keep their own values."""
    with _quiet():
        import higher

    if optimizer.label not in _SUPPORTED:
        raise EstimatorError(f"backend 'higher' here carries out {', '.join(_SUPPORTED)}, not {optimizer.label}")
    around = [*optimizer.options.get("transforms", ()), *(set(optimizer.hyper) - _HYPER)]
    if around:
        raise EstimatorError(f"backend 'higher' cannot carry out {around[0]}; use backend 'func'")
    if optimizer.options.get("maximize"):
        raise EstimatorError("backend 'higher' ignores 'maximize'; use backend 'func'")

    def value(key: str, name: str) -> Any:
        return hyper[key][name] if isinstance(hyper[key], Mapping) else hyper[key]

    groups = [{"params": [p], "lr": 1.0, "momentum": 0.5 if optimizer.label != "sgd" else 0.0} for p in params.values()]
    reference = torch.optim.SGD(groups, lr=1.0, nesterov=bool(optimizer.options.get("nesterov")), momentum=0.5)
    override = {key: [value(key, name) for name in params] for key in ("lr", "momentum", "dampening", "weight_decay")}
    with _quiet():
        twin = higher.optim.DifferentiableSGD(
            reference, list(params.values()), override=override, track_higher_grads=track
        )
    for index, buffer in enumerate(optimizer.init(params)):
        if buffer is not None:
            twin.state[index][0]["momentum_buffer"] = buffer
    return twin


def _unrolled(problem: BilevelMap, track: bool) -> HypergradientResult:
    if not isinstance(problem.memory, Store):
        raise EstimatorError(f"backend 'higher' stores every step; memory '{problem.memory}' needs backend 'func'")
    if not isinstance(problem.theta_0, dict):
        raise EstimatorError("backend 'higher' needs parameters as a dict of tensors")
    theta_0, c, hyper = as_leaves(problem.theta_0), as_leaves(problem.c), hyper_as_leaves(problem.optimizer.hyper)
    twin = _differentiable_optimizer(problem.optimizer, theta_0, hyper, track)
    theta, losses = theta_0, []
    for t in range(problem.steps):
        loss = problem.inner(t, theta, c if track else detach(c))
        losses.append(loss.detach())
        values = twin.step(loss, params=list(theta.values()))
        theta = dict(zip(theta, values, strict=True))
    outer = problem.outer(theta, c)
    at = theta_0 if track else theta  # higher cuts the graph between steps when it does not track
    wanted = {"c": c, "hyper": hyper_tensors(hyper) if track else {}, "theta": at if problem.wrt_start else None}
    grads = gradient(outer, wanted)
    return HypergradientResult(
        grads["c"], grads["theta"], grads["hyper"], outer.detach(), detach(theta), None, {"inner_losses": losses}
    )


class HigherExact(Estimator):
    """Reverse mode through ``higher``'s unroll; stores every step."""

    name = "exact"
    uses_memory = True
    gives_first_gradient = False

    def differentiate(self, problem: BilevelMap) -> HypergradientResult:
        return _unrolled(problem, track=True)


class HigherFirstOrder(Estimator):
    """``higher`` with ``track_higher_grads=False``: gradient with respect to the last parameters."""

    name = "first_order"
    exact = False
    gives_first_gradient = False
    uses_memory = True
    dropped = "second-order terms, and the update rule's own dependence on the parameters and hyperparameters"

    def differentiate(self, problem: BilevelMap) -> HypergradientResult:
        return _unrolled(problem, track=False)


HIGHER_ESTIMATORS: dict[str, type[Estimator]] = {"exact": HigherExact, "first_order": HigherFirstOrder}

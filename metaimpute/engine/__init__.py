"""Differentiable optimiser unroll: tensors, losses and optimisers; nothing of labels, images or text."""

from __future__ import annotations

import re
from typing import Any

from .ambient import CannotDifferentiate, double_differentiable
from .arguments import list_of_batches
from .compiled import CannotCompile, Compiled
from .estimators import Estimator, EstimatorError, HypergradientResult, estimators, register_estimator
from .estimators.implicit import Solver, on_trees, with_solver
from .functional import FunctionalModel, HeadNotFound
from .higher_backend import HIGHER_ESTIMATORS
from .losses import LabelRows, Loss, StructuredLoss
from .memory import (
    Auto,
    BadMemoryPolicy,
    Checkpoint,
    MemoryPolicy,
    Recompute,
    Revolve,
    Store,
    memory_policies,
    parse_memory,
)
from .noise import derive_seed, fixed_rng
from .optimizers import (
    InnerOptimizer,
    UnsupportedOptimizer,
    adagrad,
    adam,
    adamw,
    clip_norm,
    clip_value,
    from_torch,
    momentum,
    nesterov,
    optimizers,
    parameter_groups,
    register_optimizer,
    rmsprop,
    scheduled,
    sgd,
)  # fmt: skip
from .pytree import Tree
from .recording import Recording, begin
from .repetition import NotRepeatable
from .stacked import stack, stacked, unstack
from .unroll import Batches, BilevelMap, NotScalar, Trajectory, unroll
from .value import after_training

BACKENDS = ("func", "higher")

__all__ = [
    "Auto", "BACKENDS", "BadMemoryPolicy", "Batches", "BilevelMap", "CannotCompile", "CannotDifferentiate", "Checkpoint",
    "Compiled", "Estimator", "EstimatorError", "FunctionalModel", "HeadNotFound", "HypergradientResult", "InnerOptimizer",
    "LabelRows", "MemoryPolicy", "NotRepeatable", "NotScalar", "Recompute", "Recording", "Revolve", "Store",
    "StructuredLoss", "Trajectory", "UnsupportedOptimizer", "adagrad", "adam", "adamw", "after_training", "begin",
    "clip_norm", "clip_value", "derive_seed", "double_differentiable", "estimators", "fixed_rng", "from_torch",
    "get_estimator", "hypergradient", "memory_policies", "momentum", "nesterov", "on_trees", "optimizers",
    "parameter_groups", "parse_memory", "register_estimator", "register_optimizer", "rmsprop", "scheduled", "sgd", "stack",
    "stacked", "unroll", "unstack",
]  # fmt: skip


def get_estimator(name: str | Estimator, backend: str = "func", **options: Any) -> Estimator:
    """The estimator registered under ``name``, carried out by ``backend``.

    Raises:
        UnknownName: no such estimator. EstimatorError: the backend does not carry it out, or an unknown option.
    """
    if isinstance(name, Estimator):
        if backend != "func" or options:
            raise EstimatorError("an estimator that is already made takes no backend or options; give its name instead")
        return name
    name, given = _called(name)
    cls = estimators.get(name)
    if backend not in BACKENDS:
        raise EstimatorError(f"unknown backend '{backend}'; choose one of: {', '.join(BACKENDS)}")
    if backend == "higher":
        if name not in HIGHER_ESTIMATORS:
            raise EstimatorError(f"backend 'higher' carries out {', '.join(HIGHER_ESTIMATORS)}, not '{name}'")
        cls = HIGHER_ESTIMATORS[name]
    try:
        return cls(*given, **options)
    except TypeError:
        shown = [*map(str, given), *sorted(options)]
        raise EstimatorError(f"estimator '{name}' does not take the options {shown}") from None


def _called(text: str) -> tuple[str, list[float]]:
    """``"truncated(3)"`` as a name and its first options."""
    match = re.fullmatch(r"(\w+)\((.*)\)", text.strip())
    if match is None:
        return text, []
    try:
        return match[1], [
            int(a) if re.fullmatch(r"-?\d+", a.strip()) else float(a) for a in match[2].split(",") if a.strip()
        ]
    except ValueError:
        raise EstimatorError(f"options in '{text}' must be numbers, e.g. truncated(3)") from None


def hypergradient(
    inner_loss: Loss,
    outer_loss: Loss,
    theta: Tree,
    coupling: Tree,
    batches: Batches,
    optimizer: InnerOptimizer,
    estimator: str | Estimator = "exact",
    *,
    steps: int | None = None,
    memory: str | MemoryPolicy = "store",
    backend: str = "func",
    seed: int | None = None,
    wrt_start: bool | None = None,
    solve: Solver | None = None,
) -> HypergradientResult:
    """Gradient of ``outer_loss`` after inner steps on ``inner_loss``, with respect to coupling, start and hyperparameters.

    Args:
        inner_loss, outer_loss: ``(theta, coupling, batch) -> scalar``.
        theta: start of the inner steps (tree of tensors). coupling: what the inner loss depends on (tree of tensors).
        batches: ``Batches(inner=[...], outer=...)``.
        optimizer: e.g. ``sgd(0.1, momentum=0.9)``; tensors among its hyperparameters receive gradients.
        estimator: a name, a name with its first options such as ``"truncated(3)"``, or an instance.
        steps: number of inner steps; default one per inner batch.
        wrt_start: whether the gradient with respect to the start is wanted; None: where the estimator gives it.
        memory: ``"store"``, ``"checkpoint(n)"``, ``"recompute"``, ``"revolve(slots)"``, ``"auto(512MB)"`` or a policy.
        solve: for ``cg`` and ``neumann``, what solves their linear system instead: ``(matvec, b) -> x`` on flat vectors, or on
            trees (:func:`on_trees`). Its residual is in ``diagnostics["residual"]``.

    Raises:
        EstimatorError, UnknownName, BadMemoryPolicy: with what was wrong and the nearest valid choice.
    """
    how = get_estimator(estimator, backend)
    if solve is not None:
        how = with_solver(how, solve)
    return how.estimate(
        inner_loss, outer_loss, theta, coupling, batches, optimizer,
        len(list_of_batches(batches.inner)) if steps is None else steps, parse_memory(memory), seed=seed, wrt_start=wrt_start,
    )  # fmt: skip

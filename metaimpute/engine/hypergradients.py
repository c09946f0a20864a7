"""One call: the gradient of an outer loss through inner steps, by any estimator."""

from __future__ import annotations

from typing import Any

from .arguments import batches_of, list_of_batches, renamed
from .estimators import Estimator, HypergradientResult
from .estimators.choice import get_estimator
from .estimators.implicit import with_solver
from .linear_solvers import Solving
from .loss_scale import divided, require_scale, times, unscaled
from .losses import Loss
from .memory import MemoryPolicy, parse_memory
from .optimizers import InnerOptimizer
from .optimizers.base import require_rule
from .pytree import Tree
from .unroll import Batches


@renamed(theta="params", c="coupling")
def hypergradient(
    inner_loss: Loss,
    outer_loss: Loss,
    params: Tree,
    coupling: Tree = None,
    batches: Any = None,
    optimizer: InnerOptimizer | None = None,
    estimator: str | Estimator = "exact",
    *,
    steps: int | None = None,
    outer_batch: Any = None,
    memory: str | MemoryPolicy = "store",
    backend: str = "func",
    seed: int | None = None,
    wrt_start: bool | None = None,
    solve: Solving | None = None,
    loss_scale: float = 1.0,
) -> HypergradientResult:
    """Gradient of ``outer_loss`` after inner steps on ``inner_loss``, with respect to coupling, start and hyperparameters.

    Args:
        inner_loss, outer_loss: ``(params, coupling, batch) -> scalar``.
        params: start of the inner steps (tree of tensors). coupling: what the inner loss depends on (tree of tensors).
        batches: None, one batch for every step, or a list with one per step; or ``Batches(inner=[...], outer=...)``.
        outer_batch: what the outer loss is handed.
        optimizer: required; e.g. ``sgd(0.1, momentum=0.9)``; tensors among its hyperparameters receive gradients.
        estimator: a name, a name with its first options such as ``"truncated(3)"``, or an instance.
        steps: number of inner steps; default one per inner batch.
        wrt_start: whether the gradient with respect to the start is wanted; None: where the estimator gives it.
        memory: ``"store"``, ``"checkpoint(n)"``, ``"recompute"``, ``"revolve(slots)"``, ``"auto(512MB)"`` or a policy.
        solve: for ``cg`` and ``neumann``, what solves their linear system instead: ``(matvec, b) -> x`` on flat vectors, or on
            trees, or one of ``linear_solvers`` (:func:`on_trees`). Its residual is in ``diagnostics["residual"]``.
        loss_scale: factor that both losses are multiplied by while they are differentiated, for gradients that float16 would
            round to zero; what is returned is that of the losses themselves. A power of two changes nothing else.

    Raises:
        EstimatorError, UnsupportedOptimizer, UnknownName, BadMemoryPolicy: with what was wrong and the nearest valid choice.
    """
    rule = require_rule(optimizer, "optimizer")
    if not isinstance(batches, Batches):
        batches = Batches(batches_of(batches), outer_batch)
    elif outer_batch is not None:
        raise TypeError("hypergradient() was given outer_batch and Batches(...), which holds one")
    how = get_estimator(estimator, backend)
    if solve is not None:
        how = with_solver(how, solve)
    scale = require_scale(loss_scale, how, inner_loss, outer_loss)
    if scale != 1.0:
        inner_loss, outer_loss, rule = times(scale, inner_loss), times(scale, outer_loss), divided(scale, rule)
    found = how.estimate(
        inner_loss,
        outer_loss,
        params,
        coupling,
        batches,
        rule,
        len(list_of_batches(batches.inner)) if steps is None else steps,
        parse_memory(memory),
        seed=seed,
        wrt_start=wrt_start,
    )
    return found if scale == 1.0 else unscaled(scale, found)

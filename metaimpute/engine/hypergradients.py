"""One call: the gradient of an outer loss through inner steps, by any estimator."""

from __future__ import annotations

from .arguments import list_of_batches
from .estimators import Estimator, HypergradientResult
from .estimators.choice import get_estimator
from .estimators.implicit import Solver, with_solver
from .losses import Loss
from .memory import MemoryPolicy, parse_memory
from .optimizers import InnerOptimizer
from .pytree import Tree
from .unroll import Batches


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
        inner_loss,
        outer_loss,
        theta,
        coupling,
        batches,
        optimizer,
        len(list_of_batches(batches.inner)) if steps is None else steps,
        parse_memory(memory),
        seed=seed,
        wrt_start=wrt_start,
    )

"""A bilevel problem, or a recipe's, checked on the batches it would train on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..engine import Batches, Estimator
from ..engine.pytree import Tree, detach, dot, map_tensors, tensors, vjp_through, with_tensors
from .differences import Difference
from .double_precision import double_precision
from .hypergradients import ESTIMATORS, check_hypergradient
from .report import GradientCheckFailed, Report, Term, Verdict

if TYPE_CHECKING:
    from ..problems.base import BilevelProblem
    from ..recipes.recipe import Recipe

RECIPE = "two_moons"


def check_problem(
    problem: BilevelProblem,
    *,
    recipe: str | Path = RECIPE,
    sets: Sequence[str] = (),
    raise_exception: bool = True,
    **options: Any,
) -> Report:
    """Checks a problem of one's own, on the task, model and method of a recipe: its losses by :func:`check_hypergradient`, its
    ``couple``
    by finite differences.

    Args:
        problem: an instance, not yet bound; it need not be registered.
        recipe: a file, or the name of a recipe that comes with the package. sets: ``key=value`` overrides.
        options: of :func:`check_hypergradient`: ``steps``, ``estimators``, ``rtol``.

    Raises:
        GradientCheckFailed: with the report. ProblemError, RecipeError: when problem and recipe do not fit.
    """
    from ..problems.base import require_complete
    from ..recipes.recipe import load
    from ..recipes.shipped import locate

    found = load(locate(Path(recipe)), "sample", ("problem={name: none}", *sets))
    require_complete(problem)
    problem.check(found.method, found.task.output)
    return check_recipe(replace(found, problem=problem), raise_exception=raise_exception, **options)


def check_recipe(
    recipe: Recipe,
    *,
    estimators: Sequence[str | Estimator] | None = None,
    steps: int | None = None,
    raise_exception: bool = True,
    **options: Any,
) -> Report:
    """The same for a loaded recipe, at the batch of its last step, with its look-ahead and its own estimator beside the exact
    ones."""
    from ..problems.base import ProblemError
    from ..training.assemble import assemble

    if recipe.problem.learns == "nothing":
        raise ProblemError(f"problem '{recipe.problem.name}' learns nothing, so there is no hypergradient to check")
    parts = assemble(recipe, lambda line: None)
    algorithm = parts.algorithm
    last = recipe.train.steps - 1  # where all ramps are up
    batch, holdout = parts.batches.batch(last), parts.batches.holdout(last)
    with torch.no_grad():
        batch = algorithm.prepare(batch)
    params, problem, settings = algorithm.model.params, algorithm.problem, algorithm.settings
    meta: Tree = params if problem.learns == "network" else algorithm.meta
    if problem.learns == "labels":
        meta = problem.batch_meta(params, batch)
    coupling, hyper = detach(problem.couple(meta, batch)), problem.inner_hyper(meta, settings.optimizer.hyper)
    rule = settings.optimizer.with_hyper(**detach(hyper)) if hyper else settings.optimizer
    names: list[str | Estimator] = [*ESTIMATORS] if estimators is None else [*estimators]
    if estimators is None and recipe.estimator.name not in names:
        names.append(recipe.estimator)
    report = check_hypergradient(
        problem.structured_inner(),
        problem.structured_outer(),
        detach(problem.start(meta, params)),
        coupling,
        Batches([batch], holdout),
        rule,
        steps=settings.steps if steps is None else steps,
        estimators=names,
        raise_exception=False,
        **options,
    )
    report.terms.append(_couple(problem, meta, params, batch, settings.optimizer.hyper))
    if problem.held:
        report.notes.append(
            f"{', '.join(problem.held)}: held by the objective, so couple's derivatives are without them"
        )
    if raise_exception and not report.ok:
        raise GradientCheckFailed(f"{len(report.failures)} of {len(report.terms)} terms fail\n{report}")
    return report


def _moving(problem: BilevelProblem, coupling: Tree) -> Tree:
    """A coupling without what the problem says is held.

    Raises:
        ProblemError: where ``couple`` returns nothing by a name that is held.
    """
    from ..problems.base import ProblemError

    if not problem.held:
        return coupling
    named = coupling if isinstance(coupling, Mapping) else {}
    lost = next((key for key in problem.held if key not in named), None)
    if lost is not None:
        found = ", ".join(map(repr, named)) or "no mapping"
        raise ProblemError(f"{type(problem).__name__}.held names '{lost}', and couple returns {found}")
    return {key: value for key, value in named.items() if key not in problem.held}


def _couple(problem: BilevelProblem, meta: Tree, params: Tree, batch: Any, given: dict[str, Any]) -> Term:
    """The product through ``couple``, and ``start`` and ``inner_hyper`` where they depend on what is learned, along a random
    direction and against finite differences."""
    rng = torch.Generator(device="cpu").manual_seed(0)

    def random_like(tree: Tree) -> Tree:
        return with_tensors(
            tree,
            [
                torch.randn(x.shape, generator=rng, dtype=torch.float64, device="cpu").to(x.device)
                for x in tensors(tree)
            ],
        )

    def outputs(at: Tree) -> Tree:
        torch.manual_seed(0)
        found = {"c": _moving(problem, problem.couple(at, batch)), "hyper": problem.inner_hyper(at, given)}
        return found | ({"start": problem.start(at, at if problem.learns == "network" else params)} if moves else {})

    moves = any(leaf.requires_grad for leaf in tensors(problem.start(meta, params)))
    with double_precision(), torch.random.fork_rng(devices=[]):
        at = map_tensors(lambda x: x.detach().double().requires_grad_(), meta)
        direction, cotangent = map_tensors(lambda d: d / d.norm(), random_like(at)), random_like(outputs(at))

        def value(step: float) -> float:
            pairs = zip(tensors(at), tensors(direction), strict=True)
            with torch.no_grad():
                moved = with_tensors(at, [a + step * d for a, d in pairs])
                return float(dot(outputs(moved), cotangent))

        found = float(dot(vjp_through(outputs(at), cotangent, at), direction))
        difference = Difference("meta", "meta", value, direction, max(abs(value(0.0)), 1e-12))
        expected, near = difference.nearest(found, 1e-5)
        verdict: Verdict = "right" if near else "zero" if found == 0 else "wrong" if difference.settled else "kink"
    return Term("couple", "meta", found, expected, verdict)

"""Whether the components of a recipe go together."""

from __future__ import annotations

from ..engine import BadMemoryPolicy, Estimator, EstimatorError, UnsupportedOptimizer, parse_memory
from ..engine.registry import UnknownName
from ..methods import Method, MethodError
from ..models import Model, check_accepts
from ..problems import BilevelProblem, ProblemError, problems
from ..problems.base import require_complete
from ..tasks import Task, TaskError
from .schema import ProblemSpec
from .source import Source

KEYS_OF = {"steps": ("inner", "steps"), "memory": ("memory",), "start": ("path",), None: ("estimator",)}


def require_compatible(
    source: Source,
    task: Task,
    model: Model,
    method: Method,
    problem: BilevelProblem,
    spec: ProblemSpec,
    estimator: Estimator,
) -> None:
    """Refuses combinations that cannot work, each with its reason, before anything is loaded."""
    try:
        check_accepts(model, task.input_kind)
    except TaskError as error:
        raise source.fail(("model", "name"), str(error)) from None
    try:
        method.check_inputs(task.input_kind)
        method.bind(task.output)
    except MethodError as error:
        raise source.fail(("method",), str(error)) from None
    try:
        memory = parse_memory(spec.memory)
    except BadMemoryPolicy as error:
        raise source.fail(("problem", "memory"), str(error)) from None
    try:
        rule = spec.inner.build()
    except UnknownName as error:
        raise source.fail(("problem", "inner", "optimizer"), str(error)) from None
    except (UnsupportedOptimizer, TypeError) as error:
        raise source.fail(("problem", "inner"), str(error)) from None
    if task.episodes != problem.episodes:
        fitting = [name for name in problems if getattr(problems.get(name), "episodes", False) == task.episodes]
        what = "gives episodes, support and query sets" if task.episodes else "gives examples, not episodes"
        reason = (
            f"task '{task.name}' {what}, which '{problem.name}' does not learn from; these do: {', '.join(fitting)}"
        )
        raise source.fail(("problem", "name"), reason)
    if task.episodes and spec.holdout != "joint":
        raise source.fail(("problem", "holdout"), "episodes hold query sets of their own; leave holdout out")
    if problem.learns == "nothing":
        return
    if spec.path == "full" and problem.learns != "network":
        raise source.fail(
            ("problem", "path"),
            f"'full' differentiates the network's start, but '{problem.name}' learns {problem.learns}; use path: labels",
        )
    try:
        estimator.check(spec.inner.steps, memory if problem.needs_estimate else None, spec.path == "full")
    except EstimatorError as error:
        raise source.fail(("problem", *KEYS_OF[error.about]), str(error)) from None
    try:
        estimator.check_rule(rule)
    except EstimatorError as error:
        raise source.fail(("problem", "inner", "optimizer"), str(error)) from None
    if spec.schedule == "fused" and problem.learns == "labels":
        raise source.fail(
            ("problem", "schedule"), f"'{problem.name}' trains on the moved labels in a second step; use algorithm1"
        )
    if problem.max_inner_steps is not None and spec.inner.steps > problem.max_inner_steps:
        raise source.fail(
            ("problem", "inner", "steps"),
            f"'{problem.name}' is defined for {problem.max_inner_steps} inner step, not {spec.inner.steps}",
        )
    if spec.relative is not None and problem.learns != "network":
        raise source.fail(
            ("problem", "scale"),
            f"compares with the network's base gradient, but '{problem.name}' learns {problem.learns}",
        )
    if problem.replaces_base_step and (spec.relative is not None or spec.schedule == "fused"):
        key = "schedule" if spec.schedule == "fused" else "scale"
        raise source.fail(("problem", key), f"'{problem.name}' has no base step to go with it; leave {key} out")
    if type(problem).inner_hyper is not BilevelProblem.inner_hyper and "lr" not in rule.hyper:
        reason = f"'{rule.label}' has no learning rate, which '{problem.name}' learns; sgd has one"
        raise source.fail(("problem", "inner", "optimizer"), reason)
    if type(problem).inner_hyper is not BilevelProblem.inner_hyper and spec.inner.rate != "fixed":
        reason = f"'{problem.name}' learns the learning rate itself; leave rate out"
        raise source.fail(("problem", "inner", "rate"), reason)
    if spec.schedule == "fused" and spec.outer_optimizer == "separate":
        raise source.fail(("problem", "outer_optimizer"), "a fused schedule takes one step with one optimizer")
    if spec.memory.strip() != "store" and spec.backend == "higher":
        raise source.fail(("problem", "memory"), "backend 'higher' stores every step")
    try:
        require_complete(problem)
        problem.check(method, task.output)
    except ProblemError as error:
        raise source.fail(("problem",), str(error)) from None

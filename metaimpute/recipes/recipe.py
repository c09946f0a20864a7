"""Recipes: YAML <-> validated settings, and the binding of task x model x method x problem x estimator."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..batches.outputs import Classes
from ..engine import (
    BACKENDS,
    BadMemoryPolicy,
    Estimator,
    EstimatorError,
    UnsupportedOptimizer,
    estimators,
    get_estimator,
    parse_memory,
)
from ..engine.registry import Registry, UnknownName, describe_choices
from ..methods import Method, MethodError, methods
from ..models import Model, check_accepts, models
from ..plugins import load_installed
from ..problems import BilevelProblem, ProblemError, problems
from ..problems.base import require_complete
from ..tasks import Missing, Task, TaskError, tasks
from ..tasks.altered import check_alterations
from .inputs import check_input
from .schema import CONDUCT, About, ChooseSpec, ProblemSpec, TrainSpec
from .shipped import shipped_recipes
from .source import RecipeError, Source, merge, override, read
from .speed import check_speed
from .validation import options as options_of
from .validation import settings

Profile = Literal["auto", "paper", "sample"]
Concrete = Literal["paper", "sample"]
IMPOSSIBLE_PATH = (OSError, RuntimeError)  # a name too long; ~ of nobody
SECTIONS = ("task", "model", "method", "problem", "train")
BESIDE = ("choose",)  # sections that a recipe may do without
ON = " on "  # between a system's name and the form of the rows that it takes
NETWORK = "network"  # among the systems of ``choose``: what model, method and problem describe
KEYS_OF = {"steps": ("inner", "steps"), "memory": ("memory",), "start": ("path",), None: ("estimator",)}


def _of_every_problem(old: Any, new: Any) -> frozenset[str]:
    """Keys that outlive a change of problem: those of every problem, and options that both have, such as a form's."""
    entries: list[Any] = [problems.get(name) for name in (old, new) if name in problems]
    known = [{option.name for option in dataclasses.fields(entry)} for entry in entries]
    return frozenset(ProblemSpec.model_fields) | (frozenset(known[0] & known[1]) if len(known) == 2 else frozenset())


def _none(old: Any, new: Any) -> frozenset[str]:
    return frozenset()


COMPONENTS: dict[tuple[str, ...], Callable[[Any, Any], frozenset[str]]] = {
    ("task",): _none,
    ("model",): _none,
    ("method",): _none,
    ("problem",): _of_every_problem,
}


@dataclass
class Recipe:
    """A validated recipe under one profile: components ready to be loaded and trained."""

    path: str
    profile: Concrete
    about: About
    task: Task
    model: Model
    method: Method
    problem: BilevelProblem
    problem_spec: ProblemSpec
    estimator: Estimator
    train: TrainSpec
    source: Source
    choose: ChooseSpec | None = None

    @property
    def steps(self) -> int:
        """Training steps of the network; none where ``choose`` names systems and it is not among them."""
        left_out = self.choose is not None and self.choose.systems != "auto" and NETWORK not in self.choose.systems
        return 0 if left_out else self.train.steps

    @property
    def resolved(self) -> dict[str, Any]:
        """Plain values after profile and overrides, as written to ``recipe.resolved.yaml``."""
        return {key: self.source.data[key] for key in ("about", *SECTIONS, *BESIDE) if key in self.source.data}

    def task_error(self, error: TaskError) -> RecipeError:
        """A task's ``option: reason``, or a model's ``model.option: reason``, as an error at the place in the recipe."""
        option, _, reason = str(error).partition(": ")
        if option.startswith("model."):
            return self.source.fail(option.split("."), reason)
        known = {f.name for f in dataclasses.fields(self.task)}
        if option in known:
            return self.source.fail(("task", option), reason)
        if option in ProblemSpec.model_fields:
            return self.source.fail(("problem", option), reason)
        return self.source.fail(("task",), str(error))

    def missing(self) -> list[Missing]:
        """Data and weights that are not on this machine.

        Raises:
            RecipeError: for a path that no file can have.
        """
        try:
            return [*self.task.missing(), *self.model.missing()]
        except IMPOSSIBLE_PATH as error:
            raise self.source.fail(("task",), f"{type(error).__name__}: {error}") from None

    def warnings(self) -> tuple[str, ...]:
        """What looks wrong with the user's own data, which is read for it.

        Raises:
            RecipeError: for options the data cannot meet.
        """
        try:
            return self.task.warnings(self.train.seed)
        except TaskError as error:
            raise self.task_error(error) from None


def load(path: Path, profile: Concrete, sets: tuple[str, ...] = (), seed: int | None = None) -> Recipe:
    """Reads, merges and validates a recipe under a profile.

    Args:
        sets: ``a.b=value`` assignments, applied last. seed: overrides ``train.seed``.

    Raises:
        RecipeError: one line naming file, line and key, with the nearest valid choice.
    """
    source = resolve(read(path), profile, sets, seed)
    return validate(source, str(path), profile)


def resolve(source: Source, profile: str, sets: tuple[str, ...] = (), seed: int | None = None) -> Source:
    """The recipe's values under a profile and overrides."""
    load_installed()
    if "recipe" in source.data and "task" not in source.data:
        raise source.fail(("recipe",), "this is a study of a recipe; run it with metaimpute study")
    for key in source.data:
        if key not in (*SECTIONS, *BESIDE, "profiles", "about"):
            raise source.unknown((key,), (*SECTIONS, *BESIDE, "profiles", "about"))
    profiles = source.data.get("profiles") or {}
    if not isinstance(profiles, dict):
        raise source.fail(("profiles",), "must hold the profiles paper and sample")
    for key in profiles:
        if key not in ("paper", "sample"):
            raise source.unknown(("profiles", str(key)), ("paper", "sample"))
        if not isinstance(profiles[key], dict | None):
            raise source.fail(("profiles", key), "must be a group of keys")
        for section in profiles[key] or {}:
            if section not in (*SECTIONS, *BESIDE):
                raise source.unknown(("profiles", key, section), (*SECTIONS, *BESIDE))
    plain = Source({k: v for k, v in source.data.items() if k != "profiles"}, source.places, source.name)
    overlay = profiles.get(profile) or {}
    if not isinstance(overlay, dict):
        raise source.fail(("profiles", profile), "must be a group of keys")
    merged = merge(plain, overlay, ("profiles", profile), components=COMPONENTS)
    for assignment in sets:
        merged = override(merged, assignment, components=COMPONENTS)
    for key in merged.data:
        if key not in (*SECTIONS, *BESIDE, "about"):
            raise merged.unknown((key,), (*SECTIONS, *BESIDE))
    about = merged.data.get("about") or {}
    before = about.get("overrides") or [] if isinstance(about, dict) else None
    if sets and isinstance(before, list):  # of a resolved recipe, on top of those it was run with
        changed = _system_overrides((*map(str, before), *sets))
        merged.data["about"] = about | ({"overrides": changed} if changed else {})
    return merged if seed is None else override(merged, f"train.seed={seed}")


def _system_overrides(sets: tuple[str, ...]) -> list[str]:
    """The assignments that make another system of a recipe, the last one of each key."""
    last = {key.strip(): f"{key.strip()}={value.strip()}" for key, _, value in (text.partition("=") for text in sets)}
    conduct = {f"train.{key}" for key in CONDUCT}
    return [text for key, text in last.items() if key not in conduct and key.split(".")[0] != "about"]


def validate(source: Source, path: str, profile: Concrete, task: Task | None = None) -> Recipe:
    """Checks every key, type and combination, and builds the components.

    Args:
        task: stands in the place of the one the section ``task`` names, for data that no file holds.

    Raises:
        RecipeError: for the first mistake found.
    """
    load_installed()
    for section in SECTIONS:
        value = source.data.get(section)
        if value is None and section in ("problem", "train"):
            value = source.data[section] = {"name": "none"} if section == "problem" else {}
        if not isinstance(value, dict):
            raise source.fail((section,), "this section is missing" if value is None else "must be a group of keys")
    about = settings(About, source, ("about",), source.data.get("about") or {})
    train = settings(TrainSpec, source, ("train",), source.data["train"])
    task = _component(tasks, source, "task") if task is None else task
    model = _component(models, source, "model")
    method = _component(methods, source, "method")
    shared = {k: v for k, v in source.data["problem"].items() if k in ProblemSpec.model_fields}
    own = {k: v for k, v in source.data["problem"].items() if k not in ProblemSpec.model_fields}
    problem = _component(
        problems, source, "problem", {"name": shared.get("name"), **own}, tuple(ProblemSpec.model_fields)
    )
    spec = settings(ProblemSpec, source, ("problem",), shared)
    estimator = _estimator(source, spec)
    chosen = _choose(source)
    task.measured_by_folds = chosen is not None
    recipe = Recipe(path, profile, about, task, model, method, problem, spec, estimator, train, source, chosen)
    try:
        task.check()
        check_alterations(task)
        trusts = spec.holdout == "trusted" and problem.learns != "nothing"
        if trusts and not (task.label_noise and task.label_noise.trusted):
            raise TaskError("holdout: 'trusted' needs labels that are known to be right; set task.label_noise.trusted")
        if spec.holdout == "separate" and isinstance(task.output, Classes) and 0 < task.labels < 2 * task.output.size:
            raise TaskError(f"holdout: 'separate' needs 2 labels per class; {task.labels} labels give fewer")
    except TaskError as error:
        raise recipe.task_error(error) from None
    except IMPOSSIBLE_PATH as error:
        raise source.fail(("task",), f"{type(error).__name__}: {error}") from None
    _compatible(source, task, model, method, problem, spec, estimator)
    check_input(source, task, model, train)
    check_speed(source, train, problem, spec, estimator)
    return recipe


def _choose(source: Source) -> ChooseSpec | None:
    """The section ``choose``, its systems checked against those that there are."""
    value = source.data.get("choose")
    if value is None:
        return None
    if not isinstance(value, dict):
        raise source.fail(("choose",), "must be a group of keys; {} has every system that fits take part")
    found = settings(ChooseSpec, source, ("choose",), value)
    from ..ensemble.members import members  # which loads scikit-learn

    if isinstance(found.systems, list):
        known = [*members.names(), NETWORK]
        if not found.systems:
            raise source.fail(("choose", "systems"), "name one at least, or auto")
        for name in found.systems:
            if name.partition(ON)[0] not in known:
                raise source.fail(("choose", "systems"), f"unknown system '{name}'; {describe_choices(name, known)}")
            if found.systems.count(name) > 1:
                raise source.fail(("choose", "systems"), f"'{name}' is named twice")
    return found


def _component(
    registry: Registry[Any],
    source: Source,
    section: str,
    value: dict[str, Any] | None = None,
    also_valid: tuple[str, ...] = (),
) -> Any:
    """An instance of the entry named in a section, its options checked against the entry's fields."""
    options = dict(source.data[section] if value is None else value)
    name = options.pop("name", None)
    if not isinstance(name, str):
        raise source.fail((section, "name"), f"name a {registry.kind}: {', '.join(registry.names())}")
    try:
        entry: Any = registry.get(name)
    except UnknownName as error:
        raise source.fail((section, "name"), str(error)) from None
    checked = options_of(entry, options, source, (section,), (*also_valid, "name"))
    try:
        return entry(**checked)
    except (ValueError, TypeError) as error:
        raise source.fail((section,), str(error)) from None


def _estimator(source: Source, spec: ProblemSpec) -> Estimator:
    whole = source.data["problem"].get("estimator", spec.estimator)
    options: dict[Any, Any] = {"name": whole} if isinstance(whole, str) else dict(whole)
    name = options.pop("name", None)
    place = ("problem", "estimator")
    if spec.backend not in BACKENDS:
        raise source.fail(
            ("problem", "backend"), f"unknown backend '{spec.backend}'; choose one of: {', '.join(BACKENDS)}"
        )
    if not isinstance(name, str):
        raise source.fail(place, f"name an estimator: {', '.join(estimators.names())}")
    try:
        if options:
            options = options_of(estimators.get(name), options, source, place, ("name",))
        return get_estimator(name, spec.backend, **options)
    except (UnknownName, EstimatorError) as error:
        raise source.fail(place, str(error)) from None


def _compatible(
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


def about_recipes(folder: Path) -> list[tuple[Path, About]]:
    """Every recipe in a folder with what it says about itself; where it holds none, those of the package, by name."""
    files = {path: path for path in sorted(folder.glob("*.yaml"))}
    found = []
    for name, path in (files or {Path(stem): path for stem, path in shipped_recipes().items()}).items():
        source = read(path)
        found.append((name, settings(About, source, ("about",), source.data.get("about") or {})))
    return found

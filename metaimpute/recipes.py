"""Recipes: YAML <-> validated settings, and the binding of task x model x method x problem x estimator."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, field_validator

from .engine import (
    BACKENDS, BadMemoryPolicy, Estimator, EstimatorError, InnerOptimizer, UnsupportedOptimizer, estimators, get_estimator,
    optimizers, parse_memory,
)  # fmt: skip
from .engine.registry import Registry, UnknownName
from .methods import Method, MethodError, methods
from .models import Model, check_accepts, models
from .problems import BilevelProblem, ProblemError, problems
from .tasks import Missing, Task, TaskError, tasks
from .tasks.outputs import Classes
from .training.optim import OptimizerSpec, ScheduleSpec
from .yaml_source import RecipeError, Source, merge, override, read

Profile = Literal["auto", "paper", "sample"]
SECTIONS = ("task", "model", "method", "problem", "train")


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class InnerSpec(Strict):
    """The look-ahead's optimiser: a registered name, its learning rate and options, and the number of steps."""

    optimizer: str = "sgd"
    lr: float = Field(0.1, gt=0)
    steps: int = Field(1, ge=1)
    momentum: float | None = Field(None, ge=0, lt=1)
    weight_decay: float = Field(0.0, ge=0)

    def build(self) -> InnerOptimizer:
        options: dict[str, Any] = {} if self.momentum is None else {"momentum": self.momentum}
        return optimizers.get(self.optimizer)(self.lr, weight_decay=self.weight_decay, **options)


class ProblemSpec(Strict):
    """Options of every bilevel problem; a problem's own options stand beside them in the recipe."""

    name: str
    estimator: str | dict[str, Any] = "exact"
    backend: str = "func"
    memory: str = "store"
    inner: InnerSpec = Field(default_factory=InnerSpec)
    path: Literal["labels", "full"] = "labels"
    inner_loss: Literal["all", "unlabelled"] = "all"
    outer_optimizer: Literal["shared", "separate"] = "shared"
    outer: OptimizerSpec | None = None
    holdout: Literal["joint", "separate"] = "joint"
    holdout_batch: int | None = Field(None, ge=1)
    holdout_view: Literal["none", "weak", "strong"] | None = None
    weight: float = 1.0
    schedule: Literal["algorithm1", "fused"] = "algorithm1"
    scale: str = "raw"

    @field_validator("scale", mode="before")
    @classmethod
    def _scale(cls, value: Any) -> str:
        if value == "raw" or (isinstance(value, str) and _relative(value) is not None):
            return value
        raise ValueError("write 'raw', or 'relative(rho)' with rho > 0, e.g. relative(1)")

    @property
    def relative(self) -> float | None:
        """rho of ``relative(rho)``, or None for ``raw``."""
        return _relative(self.scale)


def _relative(text: str) -> float | None:
    match = re.fullmatch(r"relative\(\s*([0-9.]+(?:e-?\d+)?)\s*\)", text)
    try:
        value = float(match[1]) if match else 0.0
    except ValueError:
        return None
    return value if 0 < value < float("inf") else None


class TrainSpec(Strict):
    """The training loop. ``batch`` counts labelled and ``unlabelled_batch`` unlabelled examples per step.

    ``test_checkpoints``: how many of the last evaluation points also see the test set; their median is reported beside
    the last one. ``ema``: decay of the averaged weights that are evaluated, None for the weights themselves.
    """

    steps: int = Field(1000, ge=1)
    batch: int = Field(64, ge=1)
    unlabelled_batch: int = Field(64, ge=1)
    optimizer: OptimizerSpec = Field(default_factory=OptimizerSpec)
    schedule: ScheduleSpec = Field(default_factory=ScheduleSpec)
    ema: float | None = Field(None, ge=0, lt=1)
    seed: int = Field(0, ge=0)
    eval_every: int = Field(100, ge=1)
    eval_batch: int = Field(256, ge=1)
    checkpoint_every: int = Field(100, ge=1)
    log_every: int = Field(10, ge=1)
    test_checkpoints: int = Field(20, ge=1)
    device: str = "auto"
    threads: int | None = Field(None, ge=1)


class About(Strict):
    """What a recipe reproduces: a title and the place in the paper."""

    title: str = ""
    paper: str = ""


@dataclass
class Recipe:
    """A validated recipe under one profile: components ready to be loaded and trained."""

    path: str
    profile: str
    about: About
    task: Task
    model: Model
    method: Method
    problem: BilevelProblem
    problem_spec: ProblemSpec
    estimator: Estimator
    train: TrainSpec
    source: Source

    @property
    def resolved(self) -> dict[str, Any]:
        """Plain values after profile and overrides, as written to ``recipe.resolved.yaml``."""
        return {key: self.source.data[key] for key in ("about", *SECTIONS) if key in self.source.data}

    def task_error(self, error: TaskError) -> RecipeError:
        """A task's ``option: reason`` as an error that names the recipe's file and line."""
        option, _, reason = str(error).partition(": ")
        known = {f.name for f in dataclasses.fields(self.task)}
        if option in known:
            return self.source.fail(("task", option), reason)
        if option in ProblemSpec.model_fields:
            return self.source.fail(("problem", option), reason)
        return self.source.fail(("task",), str(error))

    def missing(self) -> list[Missing]:
        """Data and weights that are not on this machine."""
        return [*self.task.missing(), *self.model.missing()]


def load(path: Path, profile: Literal["paper", "sample"], sets: tuple[str, ...] = (), seed: int | None = None) -> Recipe:
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
    for key in source.data:
        if key not in (*SECTIONS, "profiles", "about"):
            raise source.unknown((key,), (*SECTIONS, "profiles", "about"))
    profiles = source.data.get("profiles") or {}
    if not isinstance(profiles, dict):
        raise source.fail(("profiles",), "must hold the profiles paper and sample")
    for key in profiles:
        if key not in ("paper", "sample"):
            raise source.unknown(("profiles", key), ("paper", "sample"))
        for section in profiles[key] or {}:
            if section not in SECTIONS:
                raise source.unknown(("profiles", key, section), SECTIONS)
    plain = Source({k: v for k, v in source.data.items() if k != "profiles"}, source.places, source.name)
    overlay = profiles.get(profile) or {}
    if not isinstance(overlay, dict):
        raise source.fail(("profiles", profile), "must be a group of keys")
    merged = merge(plain, overlay, ("profiles", profile))
    for assignment in sets:
        merged = override(merged, assignment)
    return merged if seed is None else override(merged, f"train.seed={seed}")


def validate(source: Source, path: str, profile: str) -> Recipe:
    """Checks every key, type and combination, and builds the components.

    Raises:
        RecipeError: for the first mistake found.
    """
    for section in SECTIONS:
        value = source.data.get(section)
        if value is None and section in ("problem", "train"):
            value = source.data[section] = {"name": "none"} if section == "problem" else {}
        if not isinstance(value, dict):
            raise source.fail((section,), "this section is missing" if value is None else "must be a group of keys")
    about = _settings(About, source, "about", source.data.get("about") or {})
    train = _settings(TrainSpec, source, "train", source.data["train"])
    task = _component(tasks, source, "task")
    model = _component(models, source, "model")
    method = _component(methods, source, "method")
    shared = {k: v for k, v in source.data["problem"].items() if k in ProblemSpec.model_fields}
    own = {k: v for k, v in source.data["problem"].items() if k not in ProblemSpec.model_fields}
    problem = _component(problems, source, "problem", {"name": shared.get("name"), **own}, tuple(ProblemSpec.model_fields))
    spec = _settings(ProblemSpec, source, "problem", shared)
    estimator = _estimator(source, spec)
    recipe = Recipe(path, profile, about, task, model, method, problem, spec, estimator, train, source)
    try:
        task.check()
        if spec.holdout == "separate" and isinstance(task.output, Classes) and task.labels < 2 * task.output.size:
            raise TaskError(f"holdout: 'separate' needs 2 labels per class; {task.labels} labels give fewer")
    except TaskError as error:
        raise recipe.task_error(error) from None
    _compatible(source, task, model, method, problem, spec, estimator)
    return recipe


def _settings(kind: Any, source: Source, section: str, value: Any) -> Any:
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        raise _first_error(source, section, kind, error) from None


def _first_error(source: Source, section: str, kind: Any, error: ValidationError) -> RecipeError:
    first = error.errors()[0]
    path = [section, *[p for p in first["loc"] if isinstance(p, int) or not str(p).startswith(("function-", "dict["))]]
    if first["type"] == "extra_forbidden":
        model = kind
        for part in first["loc"][:-1]:
            inner = model.model_fields[part].annotation
            options = [inner, *getattr(inner, "__args__", ())]
            model = next(o for o in options if isinstance(o, type) and issubclass(o, BaseModel))
        return source.unknown(path, model.model_fields)
    return source.fail(path, _readable(first))


def _readable(error: Any) -> str:
    text = error["msg"].removeprefix("Value error, ").removeprefix("Input ")
    given = error.get("input")
    shown = "" if isinstance(given, dict) or error["type"] == "missing" else f", not {given!r}"
    return f"{text[0].lower()}{text[1:]}{shown}"


def _component(
    registry: Registry[Any], source: Source, section: str, value: dict[str, Any] | None = None,
    also_valid: tuple[str, ...] = (),
) -> Any:  # fmt: skip
    """An instance of the entry named in a section, its options checked against the entry's fields."""
    options = dict(source.data[section] if value is None else value)
    name = options.pop("name", None)
    if not isinstance(name, str):
        raise source.fail((section, "name"), f"name a {registry.kind}: {', '.join(registry.names())}")
    try:
        entry: Any = registry.get(name)
    except UnknownName as error:
        raise source.fail((section, "name"), str(error)) from None
    fields = {f.name: f for f in dataclasses.fields(entry) if f.init}
    hints = get_type_hints(entry)
    checked = {}
    for key, given in options.items():
        if key not in fields:
            raise source.unknown((section, str(key)), (*fields, *also_valid, "name"))
        try:
            checked[key] = TypeAdapter(hints[key]).validate_python(given)
        except ValidationError as error:
            raise source.fail((section, key), _readable(error.errors()[0])) from None
    try:
        return entry(**checked)
    except (ValueError, TypeError) as error:
        raise source.fail((section,), str(error)) from None


def _estimator(source: Source, spec: ProblemSpec) -> Estimator:
    options = {"name": spec.estimator} if isinstance(spec.estimator, str) else dict(spec.estimator)
    name = options.pop("name", None)
    place = ("problem", "estimator")
    if spec.backend not in BACKENDS:
        raise source.fail(("problem", "backend"), f"unknown backend '{spec.backend}'; choose one of: {', '.join(BACKENDS)}")
    if not isinstance(name, str):
        raise source.fail(place, f"name an estimator: {', '.join(estimators.names())}")
    try:
        return get_estimator(name, spec.backend, **options)
    except (UnknownName, EstimatorError) as error:
        raise source.fail(place, str(error)) from None


def _compatible(
    source: Source, task: Task, model: Model, method: Method, problem: BilevelProblem, spec: ProblemSpec,
    estimator: Estimator,
) -> None:  # fmt: skip
    """Refuses combinations that cannot work, each with its reason, before anything is loaded."""
    try:
        check_accepts(model, task.input_kind)
    except TaskError as error:
        raise source.fail(("model", "name"), str(error)) from None
    try:
        method.bind(task.output)
    except MethodError as error:
        raise source.fail(("method",), str(error)) from None
    try:
        parse_memory(spec.memory)
    except BadMemoryPolicy as error:
        raise source.fail(("problem", "memory"), str(error)) from None
    try:
        spec.inner.build()
    except UnknownName as error:
        raise source.fail(("problem", "inner", "optimizer"), str(error)) from None
    except (UnsupportedOptimizer, TypeError) as error:
        raise source.fail(("problem", "inner"), str(error)) from None
    if problem.learns == "nothing":
        return
    steps = spec.inner.steps
    if estimator.max_steps is not None and steps > estimator.max_steps:
        raise source.fail(
            ("problem", "inner", "steps"),
            f"estimator '{estimator.name}' is defined for {estimator.max_steps} inner step; use head, mixed or exact",
        )
    if spec.path == "full" and problem.learns != "network":
        raise source.fail(("problem", "path"), f"'full' differentiates the network's start, but '{problem.name}' learns {problem.learns}")
    if spec.path == "full" and not estimator.start_path:
        raise source.fail(("problem", "path"), f"estimator '{estimator.name}' has no gradient for path 'full'; use exact or mixed")
    if spec.schedule == "fused" and problem.learns == "labels":
        raise source.fail(("problem", "schedule"), f"'{problem.name}' trains on the moved labels in a second step; use algorithm1")
    if spec.schedule == "fused" and spec.outer_optimizer == "separate":
        raise source.fail(("problem", "outer_optimizer"), "a fused schedule takes one step with one optimizer")
    if spec.memory.strip() != "store" and estimator.name not in ("exact", "head"):
        raise source.fail(("problem", "memory"), f"estimator '{estimator.name}' keeps no graph, so it has no memory policy")
    if spec.memory.strip() != "store" and spec.backend == "higher":
        raise source.fail(("problem", "memory"), "backend 'higher' stores every step")
    try:
        problem.check(method, task.output)
    except ProblemError as error:
        raise source.fail(("problem",), str(error)) from None


def about_recipes(folder: Path) -> list[tuple[str, str, str]]:
    """``(file, title, place in the paper)`` of every recipe in a folder.

    Raises:
        RecipeError: when the folder holds none.
    """
    files = sorted(folder.glob("*.yaml"))
    if not files:
        raise RecipeError(f"no recipes in {folder.resolve()}; run this where a folder 'recipes' is")
    rows = []
    for path in files:
        source = read(path)
        about = _settings(About, source, "about", source.data.get("about") or {})
        rows.append((str(path), about.title, about.paper))
    return rows

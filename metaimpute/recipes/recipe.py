"""Recipes: YAML <-> validated settings, and the binding of task x model x method x problem x estimator."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..batches.outputs import Classes
from ..engine import (
    Estimator,
)
from ..methods import Method, methods
from ..models import Model, models
from ..plugins import load_installed
from ..problems import BilevelProblem, problems
from ..tasks import Missing, Task, TaskError, tasks
from ..tasks.altered import check_alterations
from .compatible import require_compatible
from .components import NETWORK, chosen_of, component, estimator_of
from .inputs import check_input
from .schema import CONDUCT, About, ChooseSpec, ProblemSpec, TrainSpec
from .shipped import shipped_recipes
from .source import RecipeError, Source, merge, override, read
from .speed import check_speed
from .validation import settings

Profile = Literal["auto", "paper", "sample"]
Concrete = Literal["paper", "sample"]
IMPOSSIBLE_PATH = (OSError, RuntimeError)  # a name too long; ~ of nobody
SECTIONS = ("task", "model", "method", "problem", "train")
BESIDE = ("choose",)  # sections that a recipe may do without


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
    task = component(tasks, source, "task") if task is None else task
    model = component(models, source, "model")
    method = component(methods, source, "method")
    shared = {k: v for k, v in source.data["problem"].items() if k in ProblemSpec.model_fields}
    own = {k: v for k, v in source.data["problem"].items() if k not in ProblemSpec.model_fields}
    problem = component(
        problems, source, "problem", {"name": shared.get("name"), **own}, tuple(ProblemSpec.model_fields)
    )
    spec = settings(ProblemSpec, source, ("problem",), shared)
    estimator = estimator_of(source, spec)
    chosen = chosen_of(source)
    task.measured_by_folds = chosen is not None
    recipe = Recipe(path, profile, about, task, model, method, problem, spec, estimator, train, source, chosen)
    try:
        task.check()
        check_alterations(task)
        trusts = spec.holdout == "trusted" and problem.learns != "nothing"
        if trusts and not task.trusts_some:
            raise TaskError(
                "holdout: 'trusted' needs labels that are known to be right: of one's own data those of task.corrections "
                "(metaimpute run --labels FILE), of others task.label_noise.trusted"
            )
        if spec.holdout == "separate" and isinstance(task.output, Classes) and 0 < task.labels < 2 * task.output.size:
            raise TaskError(f"holdout: 'separate' needs 2 labels per class; {task.labels} labels give fewer")
    except TaskError as error:
        raise recipe.task_error(error) from None
    except IMPOSSIBLE_PATH as error:
        raise source.fail(("task",), f"{type(error).__name__}: {error}") from None
    require_compatible(source, task, model, method, problem, spec, estimator)
    check_input(source, task, model, train)
    check_speed(source, train, problem, spec, estimator)
    return recipe


def about_recipes(folder: Path) -> list[tuple[Path, About]]:
    """Every recipe in a folder with what it says about itself; where it holds none, those of the package, by name."""
    files = {path: path for path in sorted(folder.glob("*.yaml"))}
    found = []
    for name, path in (files or {Path(stem): path for stem, path in shipped_recipes().items()}).items():
        source = read(path)
        found.append((name, settings(About, source, ("about",), source.data.get("about") or {})))
    return found

"""A study file: one recipe, the systems made of it, perhaps a grid of settings, and the seeds all of them share.

recipe: digits_mean_teacher            # a path beside this file, or the name of a recipe that comes with metaimpute
systems:                               # each by what it sets, as --set would
  none: {problem.name: none}
  l2i: [problem.name=l2i, problem.weight=1]
grid: {problem.inner.lr: [0.01, 0.1]}  # every combination, in every system; one within a system is that system's own
set: {train.steps: 200}                # in every system
seeds: 5                               # 0 to 4; or a list
against: none                          # whom the others are compared with
metric: validation_last                # or test_last, test_median
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ..engine.registry import describe_choices
from ..recipes.profiles import choose
from ..recipes.recipe import Concrete, Recipe
from ..recipes.schema import CONDUCT, Strict
from ..recipes.shipped import locate
from ..recipes.source import RecipeError, Source, one_line, read
from ..recipes.validation import settings
from ..rundir.measure import MEASURE, Measure
from ..tasks import Missing
from .rows import MOST_ROWS, Row, flow, rows_of

KIND = "a study is a mapping with the keys recipe, systems, grid, set, seeds, against, metric, profile"
MOST_RUNS = 10_000


class StudySpec(Strict):
    """The keys of a study file. ``systems``, ``grid``, ``set`` and ``seeds`` are looked at by :func:`read_study` itself."""

    recipe: str
    profile: Literal["auto", "paper", "sample"] = "auto"
    systems: Any = None
    grid: Any = None
    set: Any = None
    seeds: Any = 1
    against: str | None = None
    metric: Measure | None = None


@dataclass(frozen=True)
class Study:
    """A validated study.

    Attributes:
        recipe: its file. why: reason of the profile. recipes: of each row, by its name. metric: what rows are compared by.
        baselines: row to the row it is compared with.
    """

    path: Path
    recipe: Path
    profile: Concrete
    why: str
    rows: tuple[Row, ...]
    seeds: tuple[int, ...]
    metric: Measure
    baselines: dict[str, str]
    recipes: dict[str, Recipe] = field(repr=False)

    @property
    def searches(self) -> bool:
        """Whether some system stands in several rows, of which one may be chosen."""
        return len({row.system for row in self.rows}) < len(self.rows)

    @property
    def warnings(self) -> list[str]:
        """What is wrong with the study's design."""
        if not self.searches or self.metric == "validation_last":
            return []
        return [
            f"to choose among grid points by {self.metric} is to tune on the test set; with metric: validation_last they are "
            "ranked on validation rows, and the test error of each system's best point alone is shown"
        ]

    def missing(self) -> list[Missing]:
        """Data and weights of any system that are not on this machine."""
        found = {one.what: one for recipe in self.recipes.values() for one in recipe.missing()}
        return list(found.values())


def read_study(path: Path) -> Study:
    """Reads a study file and validates the recipe of every system.

    Raises:
        RecipeError: one line naming file, line and key, with the nearest valid choice.
    """
    return plan(read(path, KIND), path)


def plan(source: Source, path: Path) -> Study:
    """As :func:`read_study`, of what was read."""
    if "task" in source.data and "recipe" not in source.data:
        raise source.fail(("task",), "this is a recipe, not a study; run it with metaimpute run")
    spec = settings(StudySpec, source, (), source.data)
    recipe = _recipe(source, path, spec.recipe)
    seeds = _seeds(source, spec.seeds)
    rows = tuple(itertools.islice(rows_of(source, spec.systems, spec.grid, spec.set, recipe.stem), MOST_ROWS + 1))
    if len(rows) > MOST_ROWS:
        raise source.fail(("systems",), f"more than {MOST_ROWS:,} systems, counted with the points of the grid")
    if len(rows) * len(seeds) > MOST_RUNS:
        raise source.fail(("seeds",), f"{len(rows)} systems with {len(seeds)} seeds are more than {MOST_RUNS:,} runs")
    recipes, whys = {}, {}
    for row in rows:
        recipes[row.name], whys[row.name] = _chosen(source, row, recipe, spec.profile, seeds[0])
    first = recipes[rows[0].name]
    for row in rows:
        _alike(source, row, recipes[row.name], rows[0], first)
    validated = [row for row in rows if recipes[row.name].task.validation > 0]
    searches = len({row.system for row in rows}) < len(rows)
    metric = spec.metric or ("validation_last" if searches and len(validated) == len(rows) else MEASURE)
    if metric == "validation_last" and len(validated) < len(rows):
        without = next(row for row in rows if row not in validated)
        raise source.fail(("metric",), f"needs validation rows, but task.validation is 0 in system '{without.system}'")
    baselines = _baselines(source, rows, spec.against)
    return Study(path, recipe, first.profile, whys[rows[0].name], rows, seeds, metric, baselines, recipes)


def _recipe(source: Source, path: Path, given: str) -> Path:
    beside = path.parent / given
    try:
        found = beside if given and beside.is_file() else locate(Path(given))
        exists = found.is_file()
    except RecipeError as error:
        raise source.fail(("recipe",), str(error)) from None
    except (OSError, ValueError):  # a name too long, or with a null in it
        exists = False
    if not exists:
        raise source.fail(("recipe",), f"no file '{given}' beside the study")
    return found


def _seeds(source: Source, given: Any) -> tuple[int, ...]:
    if isinstance(given, int) and not isinstance(given, bool) and 1 <= given <= MOST_RUNS:
        return tuple(range(given))
    valid = isinstance(given, list) and all(isinstance(one, int) and not isinstance(one, bool) for one in given)
    if not valid or not given:
        raise source.fail(("seeds",), f"write how many (1 to {MOST_RUNS:,}), or a list of whole numbers, not {given!r}")
    for number, one in enumerate(given):
        if not 0 <= one < 2**62:
            raise source.fail(("seeds", number), f"should be from 0 to 2**62 - 1, not {one}")
        if one in given[:number]:
            raise source.fail(("seeds", number), f"{one} is there twice")
    return tuple(given)


# the recipe of each ------------------------------------------------------------------------------------------------------


def _chosen(source: Source, row: Row, recipe: Path, profile: str, seed: int) -> tuple[Recipe, str]:
    """A row's recipe, and the reason for its profile; a mistake in what it sets is one of the study file."""
    try:
        return choose(recipe, profile, row.sets, seed)
    except RecipeError as error:
        for setting in sorted(row.settings, key=lambda one: -len(one.text)):
            said = f"--set {one_line(setting.text, 120)}: "
            if str(error).startswith(said):
                raise source.fail(setting.place, str(error).removeprefix(said)) from None
        if str(error).startswith(f"{recipe}: the recipe has no profile"):
            raise source.fail(("profile",), str(error)) from None
        raise RecipeError(f"{source.place(('systems', row.system))}: systems.{row.system}: {error}") from None


def _alike(source: Source, row: Row, recipe: Recipe, other: Row, first: Recipe) -> None:
    """Refuses rows whose numbers cannot stand in one table."""
    place = ("systems", row.system)
    if (recipe.task.name, recipe.task.output.metric) != (first.task.name, first.task.output.metric):
        raise source.fail(place, f"has the task '{recipe.task.name}', but '{other.system}' has '{first.task.name}'")
    if recipe.profile != first.profile:
        raise source.fail(
            ("profile",),
            f"auto gives {recipe.profile} for '{row.name}' and {first.profile} for '{other.name}'; name one",
        )


def _baselines(source: Source, rows: tuple[Row, ...], against: str | None) -> dict[str, str]:
    """Row to the row it is compared with: the one named, or the named system's row at the same values of the grid."""
    wanted = rows[0].system if against is None else against
    named = [row for row in rows if row.name == wanted] or [row for row in rows if row.system == wanted]
    if not named:
        close = describe_choices(wanted, [*dict.fromkeys(row.system for row in rows)])
        raise source.fail(("against",), f"no system is called '{wanted}'; {close}")
    found = {}
    for row in rows:
        near = named if len(named) == 1 else [one for one in named if _same_point(one, row)]
        if len(near) == 1:
            found[row.name] = near[0].name
        elif row.system != wanted and against is not None:
            names = ", ".join(f"'{one.name}'" for one in named[:3])
            raise source.fail(("against",), f"'{wanted}' has several points; name one: {names}")
    return found


def _same_point(one: Row, other: Row) -> bool:
    return all(key in other.point and flow(other.point[key]) == flow(value) for key, value in one.point.items())


def settings_of(recipe: Recipe) -> dict[str, Any]:
    """What makes a run's outcome, flat: every resolved value by its dotted key, without titles and conduct."""
    found: dict[str, Any] = {}

    def walk(value: Any, path: str) -> None:
        if isinstance(value, dict) and value:
            for key, inside in value.items():
                walk(inside, f"{path}.{key}" if path else str(key))
        elif path.removeprefix("train.") not in CONDUCT - {"seed"}:
            found[path] = value

    walk({name: value for name, value in recipe.resolved.items() if name != "about"}, "")
    return found

"""``metaimpute check``."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import MISSING, USAGE
from .complete import complete_recipes, complete_sets
from .errors import fail, plain_errors
from .options import as_set, imports, labels_file, naming_labels, results
from .output import in_json, next_step, print_json, result

if TYPE_CHECKING:
    from ..recipes.recipe import Recipe
    from ..tasks import Missing

TEMPLATE = "own_"  # what begins the names of shipped recipes for data that the user brings


@dataclass
class _Found:
    """What there is to say of one recipe."""

    path: Path
    profiles: list[dict[str, Any]] = field(default_factory=list)
    runnable: bool = False
    template: bool = False
    built: Recipe | None = None


@click.command()
@click.argument("recipes", nargs=-1, required=True, type=click.Path(path_type=Path), shell_complete=complete_recipes)
@click.option(
    "--set",
    "sets",
    multiple=True,
    metavar="KEY=VALUE",
    shell_complete=complete_sets,
    help="Override a value before checking. Repeatable.",
)
@labels_file
@click.option(
    "--gradients", is_flag=True, help="Hold the hypergradient of each recipe against finite differences in float64."
)
@results
@imports
def check(recipes: tuple[Path, ...], sets: tuple[str, ...], labels: Path | None, gradients: bool) -> None:
    """Validate RECIPES (files, folders or names) under every profile and say what data is missing; runs nothing.

    With --gradients the last profile that can run here (sample, where there is one) is built, and its hypergradient at one
    batch is compared term by term; exit code 2 when one is wrong. Exit code 3 when a recipe cannot run under any of its
    profiles because data or weights are missing; in a folder, templates for data of your own do not count.
    """  # fmt: skip
    with plain_errors():
        from ..recipes.shipped import locate
        from ..recipes.source import RecipeError
        from ..terminal import argument

        files = {
            file: path.is_dir()
            for path in map(locate, recipes)
            for file in (sorted(path.glob("*.yaml")) if path.is_dir() else [path])
        }
        if not files:
            raise RecipeError(f"no recipe (*.yaml) in {', '.join(map(str, recipes))}")
        sets = (*sets, *as_set(labels))
        absent: dict[str, Missing] = {}
        wrong: list[str] = []
        checked = []
        for path, of_folder in files.items():
            with naming_labels(labels, str(path) if len(files) > 1 else ""):
                checked.append(one := _checked(path, sets, absent, of_folder))
            if gradients and one.built is not None:
                wrong += _check_gradients(path, one.built)
        unrunnable = [str(one.path) for one in checked if not one.runnable and not one.template]
        for missing in absent.values():
            result(f"missing: {missing}")
        if len(checked) > 1:
            result(_summary(checked))
        if in_json():
            print_json(
                {
                    "recipes": [
                        {"recipe": one.path, "runs_here": one.runnable, "profiles": one.profiles} for one in checked
                    ],
                    "missing": [{"what": m.what, "remedy": m.remedy} for m in absent.values()],
                    "wrong_gradients": wrong,
                }
            )
        if wrong:
            fail(USAGE, f"not the gradient of the bilevel map: {'; '.join(wrong)}")
        if unrunnable:
            fail(MISSING, f"valid, but cannot run here for want of data: {', '.join(unrunnable)}")
        runs = [one.path for one in checked if one.runnable]
        if runs:
            next_step(f"metaimpute run {argument(runs[0]) if len(checked) == 1 else 'RECIPE'}")


def _checked(path: Path, sets: tuple[str, ...], absent: dict[str, Missing], of_folder: bool) -> _Found:
    """Says of each profile whether it is valid; adds what is missing to ``absent``, unless that is the user's own data.

    Args:
        of_folder: whether the recipe was named by its folder alone.
    """
    from ..recipes.profiles import profiles_of
    from ..recipes.recipe import load
    from ..recipes.source import read

    found = _Found(path)
    for profile in profiles_of(read(path)):
        recipe = load(path, profile, sets)
        missing = recipe.missing()
        found.template = of_folder and path.stem.startswith(TEMPLATE) and bool(missing)
        found.runnable |= not missing
        found.built = found.built if missing else recipe
        if not found.template:
            absent |= {m.what: m for m in missing}
        words = "; a template: it waits for data of your own" if found.template else ""
        without = f"; missing: {', '.join(m.what for m in missing)}" if missing and not words else words
        warnings = [] if missing else list(recipe.warnings())
        result(f"{path} [{profile}]: valid{without}")
        for line in warnings:
            result(f"{path} [{profile}]: warning: {line}")
        found.profiles.append({"profile": profile, "missing": [m.what for m in missing], "warnings": warnings})
    return found


def _summary(checked: list[_Found]) -> str:
    runnable, templates = sum(one.runnable for one in checked), sum(one.template for one in checked)
    waiting = len(checked) - runnable - templates
    parts = [f"{runnable} can run here"]
    parts += [f"{waiting} cannot for want of data or weights"] if waiting else []
    parts += [f"{templates} wait for data of your own"] if templates else []
    return f"{len(checked)} recipes are valid: {', '.join(parts)}"


def _check_gradients(path: Path, recipe: Recipe) -> list[str]:
    """Prints the comparison and returns the terms that fail."""
    from ..testing import check_recipe

    if recipe.problem.learns == "nothing":
        result(f"{path} [{recipe.profile}]: problem '{recipe.problem.name}' takes no hypergradient")
        return []
    report = check_recipe(recipe, raise_exception=False)
    for line in str(report).splitlines():
        result(f"{path} [{recipe.profile}]: {line}")
    return [f"{path}: {term.estimator}, {term.name} ({term.verdict})" for term in report.failures]

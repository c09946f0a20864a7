"""``metaimpute run`` and ``metaimpute check``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, cast

import click

from ..errors import MISSING, UNREAD, USAGE
from .errors import fail, plain_errors
from .options import imports
from .output import echo, screen

if TYPE_CHECKING:
    from ..recipes.profiles import Concrete
    from ..recipes.recipe import Recipe
    from ..tasks import Missing


@click.command()
@click.argument("recipe", required=False, type=click.Path(path_type=Path))
@click.option("--profile", type=click.Choice(["auto", "paper", "sample"]), default="auto", show_default=True,
              help="paper: the paper's model and schedule. sample: small real data, minutes on a CPU.")  # fmt: skip
@click.option(
    "--set", "sets", multiple=True, metavar="KEY=VALUE", help="Override a value, e.g. train.steps=200. Repeatable."
)
@click.option("--seed", type=click.IntRange(min=0), help="Seed of everything: label draw, weights, batches, noise.")
@click.option("--out", type=click.Path(path_type=Path), help="Run directory; default runs/RECIPE-PROBLEM-seedN.")
@click.option(
    "--resume", type=click.Path(path_type=Path), help="Continue the run in this directory from its last checkpoint."
)
@imports
def run(
    recipe: Path | None, profile: str, sets: tuple[str, ...], seed: int | None, out: Path | None, resume: Path | None
) -> None:
    """Train a RECIPE, a file or the name of one that comes with metaimpute; with --resume, continue a run."""
    with plain_errors():
        from ..recipes.profiles import choose
        from ..recipes.shipped import locate
        from ..recipes.source import RecipeError
        from ..reporting.console import TrainingProgress, result_table
        from ..rundir.layout import RESULT, WRITTEN_OVER, is_run
        from ..rundir.origin import Begun, read_begun, recipe_of
        from ..terminal import argument, cell, spelled
        from ..training.session import Interrupted, Session

        console = screen(soft_wrap=not sys.stdout.isatty())
        if resume is not None:
            if recipe is not None or sets or seed is not None or out is not None or profile != "auto":
                raise RecipeError(
                    "--resume continues a run as it was; leave out RECIPE, --profile, --set, --seed and --out"
                )
            chosen, why, folder, begun = recipe_of(resume), read_begun(resume).why, resume, None
        elif recipe is None:
            raise RecipeError("name a recipe, e.g. metaimpute run recipes/imdb_uda.yaml")
        else:
            recipe = locate(recipe)
            chosen, why = choose(recipe, profile, sets, seed)
            begun = Begun(str(recipe), cast("Concrete", chosen.profile), why)
            folder = out or _free_folder(
                Path("runs") / f"{spelled(recipe.stem)}-{chosen.problem.name}-seed{chosen.train.seed}"
            )
            if out is not None and is_run(out):
                raise RecipeError(
                    f"{out} already holds a run; continue it with --resume {argument(out)} or choose another --out"
                )
            held = [] if out is None else [name for name in WRITTEN_OVER if (out / name).exists()]
            taken = next((name for name in held if not (out / name).is_symlink()), None)  # type: ignore[operator]
            if taken is not None:
                raise RecipeError(
                    f"{out} is no run, and holds {taken}, which a run would write over; choose another --out"
                )
        console.print(cell(f"profile {chosen.profile}: {why}"))
        with TrainingProgress(console, chosen.train.steps, chosen.task.output.metric) as progress:
            session = Session(chosen, folder, why=why, begun=begun, say=progress.say, report=progress.report)
            progress.when_unread(session.stop)
            progress.say(f"data: {session.data.source}; run directory: {folder}")
            if resume is not None:
                session.resume()
            try:
                result = session.run()
            except Interrupted as stopped:
                if progress.unread:
                    fail(UNREAD, stopped)
                raise
        console.print(result_table([[result]]))
        console.print(cell(f"wrote {folder / RESULT}"))


def _free_folder(wanted: Path) -> Path:
    """``wanted``, made, or one with a number appended when a run is already there."""
    folder, number = wanted, 1
    while True:
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            number += 1
            folder = wanted.with_name(f"{wanted.name}-{number}")


@click.command()
@click.argument("recipes", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--set", "sets", multiple=True, metavar="KEY=VALUE", help="Override a value before checking. Repeatable.")
@click.option(
    "--gradients", is_flag=True, help="Hold the hypergradient of each recipe against finite differences in float64."
)
@imports
def check(recipes: tuple[Path, ...], sets: tuple[str, ...], gradients: bool) -> None:
    """Validate RECIPES (files, folders or names) under every profile and say what data is missing; runs nothing.

    With --gradients the last profile that can run here (sample, where there is one) is built, and its hypergradient at one
    batch is compared term by term; exit code 2 when one is wrong. Exit code 3 when a recipe cannot run under any of its
    profiles because data or weights are missing.
    """
    with plain_errors():
        from ..recipes.profiles import profiles_of
        from ..recipes.recipe import load
        from ..recipes.shipped import locate
        from ..recipes.source import RecipeError, read

        files = [f for path in map(locate, recipes) for f in (sorted(path.glob("*.yaml")) if path.is_dir() else [path])]
        if not files:
            raise RecipeError(f"no recipe (*.yaml) in {', '.join(map(str, recipes))}")
        unrunnable: list[str] = []
        absent: dict[str, Missing] = {}
        wrong: list[str] = []
        for path in files:
            runnable, built = False, None
            for profile in profiles_of(read(path)):
                recipe = load(path, profile, sets)
                missing = recipe.missing()
                runnable |= not missing
                built = built if missing else recipe
                absent |= {m.what: m for m in missing}
                without = f"; missing: {', '.join(m.what for m in missing)}" if missing else ""
                echo(f"{path} [{profile}]: valid{without}")
                for line in () if missing else recipe.warnings():
                    echo(f"{path} [{profile}]: warning: {line}")
            if not runnable:
                unrunnable.append(str(path))
            if gradients and built is not None:
                wrong += _check_gradients(path, built)
        for one in absent.values():
            echo(f"missing: {one}")
        if wrong:
            fail(USAGE, f"not the gradient of the bilevel map: {'; '.join(wrong)}")
        if unrunnable:
            fail(MISSING, f"valid, but cannot run here for want of data: {', '.join(unrunnable)}")


def _check_gradients(path: Path, recipe: Recipe) -> list[str]:
    """Prints the comparison and returns the terms that fail."""
    from ..testing import check_recipe

    if recipe.problem.learns == "nothing":
        echo(f"{path} [{recipe.profile}]: problem '{recipe.problem.name}' takes no hypergradient")
        return []
    report = check_recipe(recipe, raise_exception=False)
    for line in str(report).splitlines():
        echo(f"{path} [{recipe.profile}]: {line}")
    return [f"{path}: {term.estimator}, {term.name} ({term.verdict})" for term in report.failures]

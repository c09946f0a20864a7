"""``metaimpute run`` and ``metaimpute check``."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, cast

import click

from ..errors import MISSING, UNREAD, USAGE
from .errors import fail, plain_errors
from .options import imports
from .output import echo, notes, results_unread, screen

if TYPE_CHECKING:
    from ..recipes.recipe import Profile, Recipe
    from ..tasks import Missing

CORRECTIONS = "task.corrections"


@click.command()
@click.argument("recipe", required=False, type=click.Path(path_type=Path))
@click.option(
    "--profile",
    type=click.Choice(["auto", "paper", "sample"]),
    default="auto",
    show_default=True,
    help="paper: the paper's model and schedule. sample: small real data, minutes on a CPU.",
)
@click.option(
    "--set", "sets", multiple=True, metavar="KEY=VALUE", help="Override a value, e.g. train.steps=200. Repeatable."
)
@click.option(
    "--labels",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Labels that go before those of one's own data: a table of id and label, as metaimpute review writes it.",
)
@click.option("--seed", type=click.IntRange(min=0), help="Seed of everything: label draw, weights, batches, noise.")
@click.option("--out", type=click.Path(path_type=Path), help="Run directory; default runs/RECIPE-PROBLEM-seedN.")
@click.option(
    "--resume", type=click.Path(path_type=Path), help="Continue the run in this directory from its last checkpoint."
)
@imports
def run(
    recipe: Path | None, profile: str, sets: tuple[str, ...], labels: Path | None, seed: int | None, out: Path | None,
    resume: Path | None,
) -> None:  # fmt: skip
    """Train a RECIPE, a file or the name of one that comes with metaimpute; with --resume, continue a run."""
    with plain_errors(), _naming_labels(labels):
        from ..reporting.console import TrainingProgress, candidates_table, expectation, result_table
        from ..rundir.begin import beginning
        from ..rundir.layout import RESULT
        from ..terminal import cell
        from ..training.session import Interrupted, Session

        if labels is not None:
            sets = (*sets, f"{CORRECTIONS}={json.dumps(str(labels), ensure_ascii=False)}")
        began = beginning(recipe, cast("Profile", profile), sets, seed, out, resume)
        chosen, folder = began.recipe, began.folder
        with TrainingProgress(notes(), chosen.task.output.metric) as progress:
            progress.say(f"profile {chosen.profile}: {began.why}")
            session = Session(
                chosen, folder, why=began.why, begun=began.begun, say=progress.say, report=progress.report
            )
            progress.when_unread(session.stop, results_unread)
            progress.say(f"data: {session.data.source}; run directory: {folder}")
            if resume is not None:
                session.resume()
            try:
                result = session.run()
            except Interrupted as stopped:
                if progress.unread:
                    fail(UNREAD, stopped)
                raise
        console = screen(soft_wrap=not sys.stdout.isatty())
        if result.candidates is not None:
            console.print(candidates_table(result))
        console.print(result_table([[result]]))
        for line in expectation(result):
            console.print(cell(line))
        console.print(cell(f"wrote {folder / RESULT}"))


@contextlib.contextmanager
def _naming_labels(labels: Path | None) -> Iterator[None]:
    """A mistake in the file of ``--labels`` is said of that option, and not of the key of the recipe that it sets."""
    from ..errors import UserError

    try:
        yield
    except UserError as error:
        place, _, reason = str(error).partition(f": {CORRECTIONS}: ")
        if labels is None or not reason or not place.startswith(f"--set {CORRECTIONS}="):
            raise
        if reason.startswith("unknown key"):
            reason = "the recipe's task is not on data of your own; its labels are what they are"
        raise UserError(f"--labels: {reason}") from None


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

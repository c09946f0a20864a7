"""The ``metaimpute`` command. Thin: each command imports what it needs when it runs, so help is immediate."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from . import __version__

INTERNAL, USAGE, MISSING, DIVERGED, INTERRUPTED = 1, 2, 3, 4, 130


@contextlib.contextmanager
def _plain_errors() -> Iterator[None]:
    """A user's mistake ends in one line on stderr and its exit code, never in a traceback."""
    import warnings

    warnings.filterwarnings("ignore", category=FutureWarning, module="torch")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from .engine import BadMemoryPolicy, EstimatorError, HeadNotFound, NotScalar, UnsupportedOptimizer
    from .engine.registry import UnknownName
    from .methods import MethodError
    from .problems import ProblemError
    from .tasks import MissingData, TaskError
    from .training.algorithm import Diverged
    from .training.checkpoint import NoCheckpoint
    from .training.session import Interrupted
    from .yaml_source import RecipeError

    mistakes = (
        RecipeError, TaskError, MethodError, ProblemError, EstimatorError, HeadNotFound, UnsupportedOptimizer, UnknownName,
        BadMemoryPolicy, NoCheckpoint, NotScalar,
    )  # fmt: skip
    try:
        yield
    except mistakes as error:
        _fail(USAGE, error)
    except MissingData as error:
        _fail(MISSING, error)
    except Diverged as error:
        _fail(DIVERGED, f"training diverged: {error}")
    except (Interrupted, KeyboardInterrupt) as error:
        _fail(INTERRUPTED, str(error) or "interrupted")
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        hint = "; a run directory cannot be a file" if isinstance(error, FileExistsError | NotADirectoryError) else ""
        _fail(USAGE, f"{where}{error.strerror or error}{hint}")
    except Exception as error:
        if os.environ.get("METAIMPUTE_DEBUG"):
            raise
        first = (str(error).splitlines() or [""])[0]
        _fail(INTERNAL, f"internal: {type(error).__name__}: {first} (METAIMPUTE_DEBUG=1 shows where)")


def _fail(code: int, message: object) -> None:
    click.echo(f"error: {message}", err=True)
    sys.exit(code)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="metaimpute")
def main() -> None:
    """Learn with few labels by differentiating through training.

    \b
    metaimpute run recipes/imdb_uda.yaml                       train and evaluate
    metaimpute run recipes/imdb_uda.yaml --set problem.name=none   the base method alone
    metaimpute check recipes/                                  validate, say what data is missing
    metaimpute list methods                                    what there is
    """


@main.command()
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
def run(
    recipe: Path | None, profile: str, sets: tuple[str, ...], seed: int | None, out: Path | None, resume: Path | None
) -> None:
    """Train a RECIPE and evaluate it; with --resume, continue a run."""
    with _plain_errors():
        from rich.console import Console

        from .profiles import choose
        from .recipes import load
        from .reporting.console import TrainingProgress, result_table
        from .training.session import Session
        from .yaml_source import RecipeError

        console = Console(soft_wrap=True) if not sys.stdout.isatty() else Console()
        if resume is not None:
            if recipe is not None or sets or seed is not None or out is not None or profile != "auto":
                raise RecipeError(
                    "--resume continues a run as it was; leave out RECIPE, --profile, --set, --seed and --out"
                )
            saved = resume / "recipe.resolved.yaml"
            if not saved.exists():
                raise RecipeError(f"{resume} is not a run directory (no recipe.resolved.yaml)")
            begun = _begun(resume)
            chosen, why = load(saved, begun["profile"]), begun["why"]
            chosen.path = begun["recipe"]
            folder = resume
        elif recipe is None:
            raise RecipeError("name a recipe, e.g. metaimpute run recipes/imdb_uda.yaml")
        else:
            chosen, why = choose(recipe, profile, sets, seed)
            folder = out or _free_folder(Path("runs") / f"{recipe.stem}-{chosen.problem.name}-seed{chosen.train.seed}")
            if out is not None and (out / "recipe.resolved.yaml").exists():
                raise RecipeError(f"{out} already holds a run; continue it with --resume {out} or choose another --out")
        console.print(f"profile {chosen.profile}: {why}", markup=False, highlight=False)
        with TrainingProgress(console, chosen.train.steps, chosen.task.output.metric) as progress:
            session = Session(chosen, folder, why=why, say=progress.say, report=progress.report)
            progress.say(f"data: {session.data.source}; run directory: {folder}")
            if resume is None:
                folder.mkdir(parents=True, exist_ok=True)
                (folder / "begun.json").write_text(
                    json.dumps({"recipe": str(recipe), "profile": chosen.profile, "why": why})
                )
            else:
                session.resume()
            result = session.run()
        console.print(result_table([result]))
        console.print(f"wrote {folder / 'result.json'}", markup=False, highlight=False)


def _begun(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads((folder / "begun.json").read_text())
        if found["profile"] in ("paper", "sample"):
            return {key: str(found[key]) for key in ("recipe", "profile", "why")}
        raise ValueError("no such profile")
    except (OSError, ValueError, LookupError, TypeError):
        return {"recipe": str(folder), "profile": "sample", "why": "resumed"}


def _free_folder(wanted: Path) -> Path:
    """``wanted``, or with a number appended when a run is already there."""
    folder, number = wanted, 1
    while folder.exists():
        number += 1
        folder = wanted.with_name(f"{wanted.name}-{number}")
    return folder


@main.command()
@click.argument("recipes", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--set", "sets", multiple=True, metavar="KEY=VALUE", help="Override a value before checking. Repeatable.")
def check(recipes: tuple[Path, ...], sets: tuple[str, ...]) -> None:
    """Validate RECIPES (files or folders) under every profile and say what data is missing; runs nothing.

    Exit code 3 when a recipe cannot run under any of its profiles because data or weights are missing.
    """
    with _plain_errors():
        from .profiles import profiles_of
        from .recipes import load
        from .yaml_source import RecipeError, read

        files = [f for path in recipes for f in (sorted(path.glob("*.yaml")) if path.is_dir() else [path])]
        if not files:
            raise RecipeError(f"no recipe (*.yaml) in {', '.join(map(str, recipes))}")
        unrunnable = []
        for path in files:
            runnable = False
            for profile in profiles_of(read(path)):
                missing = load(path, profile, sets).missing()
                runnable |= not missing
                click.echo(f"{path} [{profile}]: valid" + "".join(f"; {m}" for m in missing))
            if not runnable:
                unrunnable.append(str(path))
        if unrunnable:
            _fail(MISSING, f"cannot run here for want of data: {', '.join(unrunnable)}")


KINDS = ("tasks", "models", "methods", "problems", "estimators", "optimizers", "recipes")


@main.command(name="list")
@click.argument("kind", type=click.Choice(KINDS))
def list_(kind: str) -> None:
    """List what there is of a KIND, one line each."""
    with _plain_errors():
        from rich.console import Console
        from rich.table import Table

        from . import engine
        from .methods import methods
        from .models import models
        from .problems import problems
        from .tasks import tasks

        table = Table(box=None, pad_edge=False)
        if kind == "recipes":
            from .recipes import about_recipes

            for column in ("recipe", "title", "paper"):
                table.add_column(column, overflow="fold")
            for row in about_recipes(Path("recipes")):
                table.add_row(*row)
        else:
            registry: Any = {
                "tasks": tasks, "models": models, "methods": methods, "problems": problems,
                "estimators": engine.estimators, "optimizers": engine.optimizers,
            }[kind]  # fmt: skip
            table.add_column("name")
            table.add_column("what it is", overflow="fold")
            for name in registry:
                table.add_row(name, registry.summary(name))
        Console(width=None if sys.stdout.isatty() else 160).print(table)


@main.group()
def data() -> None:
    """Fetch data and weights, or say what is here."""


@data.command()
def status() -> None:
    """What is here and where it was looked for."""
    with _plain_errors():
        from .fetch import SOURCES

        for name, source in SOURCES.items():
            found = source.find()
            click.echo(f"{name}: {found if found else f'not here; metaimpute data get {name}'}")


@data.command()
@click.argument("name")
def get(name: str) -> None:
    """Download NAME into the cache, where the network allows."""
    with _plain_errors():
        from .engine.registry import describe_choices
        from .fetch import SOURCES
        from .yaml_source import RecipeError

        if name not in SOURCES:
            raise RecipeError(f"unknown data '{name}'; {describe_choices(name, list(SOURCES))}")
        click.echo(f"{name}: {SOURCES[name].find() or SOURCES[name].get()}")

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
    except click.ClickException:
        raise
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


BENCHED = "exact,mixed,truncated(1),finite_difference,neumann(5),cg(5),first_order,head"


@main.group()
def bench() -> None:
    """Measure what hypergradients and bilevel training steps cost."""


def _names(_: Any, __: Any, text: str) -> tuple[str, ...]:
    """A comma-separated list; commas inside parentheses belong to a name."""
    found, depth, word = [], 0, ""
    for letter in text:
        depth += {"(": 1, ")": -1}.get(letter, 0)
        if letter == "," and depth == 0:
            found.append(word)
            word = ""
        else:
            word += letter
    return tuple(name.strip() for name in (*found, word) if name.strip())


def _numbers(context: Any, parameter: Any, text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    try:
        found = tuple(int(part) for part in text.split(","))
    except ValueError:
        raise click.BadParameter(f"whole numbers with commas between them, not '{text}'") from None
    if any(number < 1 for number in found):
        raise click.BadParameter("numbers of at least 1")
    return found


@bench.command()
@click.option("--model", default="mlp", show_default=True, help="mlp, cnn, transformer, wrn, or module:Class.")
@click.option("--input", "shape", callback=_numbers, help="Shape of one example for module:Class, e.g. 3,32,32.")
@click.option("--steps", default="1,4,16", show_default=True, callback=_numbers, help="Numbers of inner steps k.")
@click.option(
    "--estimator",
    "estimators",
    callback=_names,
    default="exact,mixed,truncated(1),finite_difference,neumann(5),cg(5),first_order,head",
    show_default=True,
)
@click.option(
    "--memory", "memories", callback=_names, default="store,recompute,checkpoint(4),revolve(4)", show_default=True
)
@click.option("--backend", "backends", callback=_names, default="func", show_default=True, help="Any of func,compiled,higher.")
@click.option(
    "--peers", callback=_names, default="higher,torchopt,betty", show_default=True, help="Other packages to run."
)
@click.option("--optimizer", type=click.Choice(["sgd", "momentum", "adam"]), default="sgd", show_default=True)
@click.option("--lr", default=0.05, show_default=True, help="Inner learning rate.")
@click.option("--batch", default=16, show_default=True, type=click.IntRange(1))
@click.option("--repeats", default=3, show_default=True, type=click.IntRange(1), help="Timings of each, taken in turn.")
@click.option("--threads", default=2, show_default=True, type=click.IntRange(1, 1024))
@click.option("--device", default="cpu", show_default=True)
@click.option("--out", type=click.Path(path_type=Path), help="Write the rows as JSON.")
@click.option(
    "--plot", "picture", type=click.Path(path_type=Path), help="Write the cost-versus-accuracy plot (PNG or SVG)."
)
def hypergradient(model: str, shape: tuple[int, ...] | None, steps: tuple[int, ...], backends: tuple[str, ...],
                  peers: tuple[str, ...], threads: int, device: str, out: Path | None, picture: Path | None,
                  **options: Any) -> None:  # fmt: skip
    """Cost and accuracy of hypergradient estimators on a model."""
    with _plain_errors():
        import torch
        from rich.console import Console

        from .bench import hypergradient as work
        from .bench.peers import PEERS
        from .bench.problems import BenchError
        from .engine import BACKENDS
        from .engine.registry import describe_choices
        from .training.environment import pick_device

        for name, known in [*((b, (*BACKENDS, "compiled")) for b in backends), *((p, tuple(PEERS)) for p in peers)]:
            if name not in known:
                raise click.UsageError(f"unknown '{name}'; {describe_choices(name, list(known))}")
        torch.set_num_threads(threads)
        sys.path.insert(0, str(Path.cwd()))  # module:Class may be a file here, as for python -m
        try:
            where = str(pick_device(device))
            result = work.sweep(
                model, steps, shape=shape, backends=backends, peers=peers, device=where, say=_say, **options
            )
        except (BenchError, ValueError) as error:
            raise click.UsageError(str(error)) from None
        Console(width=None if sys.stdout.isatty() else 150).print(work.table(result))
        _finish(result, out)
        if picture is not None:
            work.plot(result, picture)
            click.echo(f"wrote {picture}")


@bench.command()
@click.option(
    "--method",
    "methods",
    callback=_names,
    default="mean_teacher:1,fixmatch:7",
    show_default=True,
    help="METHOD:MU, unlabelled batches per labelled one.",
)
@click.option("--batch", default=16, show_default=True, type=click.IntRange(1))
@click.option("--repeats", default=5, show_default=True, type=click.IntRange(1))
@click.option("--threads", default=2, show_default=True, type=click.IntRange(1, 1024))
@click.option("--out", type=click.Path(path_type=Path), help="Write the rows as JSON.")
def step(methods: tuple[str, ...], batch: int, repeats: int, threads: int, out: Path | None) -> None:
    """Cost of one training step of WRN-16-2 against the limit of counting passes."""
    with _plain_errors():
        import torch
        from rich.console import Console

        from .bench import step as work

        pairs = []
        for text in methods:
            name, _, mu = text.partition(":")
            if name not in ("mean_teacher", "fixmatch") or not (mu or "1").isdigit():
                raise click.UsageError(f"'{text}': write mean_teacher:1 or fixmatch:7")
            pairs.append((name, int(mu or 1)))
        torch.set_num_threads(threads)
        result = work.sweep(pairs, batch=batch, repeats=repeats, say=_say)
        Console(width=None if sys.stdout.isatty() else 150).print(work.table(result))
        _finish(result, out)


def _say(message: str) -> None:
    click.echo(message, err=True)


def _finish(result: dict[str, Any], out: Path | None) -> None:
    for row in result.get("skipped", []):
        click.echo(f"skipped {row['system']} at k = {row['steps']}: {row['why']}")
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(result, indent=1) + "\n")
        click.echo(f"wrote {out}")

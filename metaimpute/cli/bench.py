"""``metaimpute bench``: what hypergradients and bilevel training steps cost."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .errors import plain_errors
from .options import results
from .output import done, echo, in_json, next_step, note, plain_width, print_json, screen, working
from .output import result as show_line

if TYPE_CHECKING:
    from rich.table import Table

OPTIMIZERS = ("sgd", "momentum", "adam")


@click.group()
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
@results
@click.option(
    "--grid",
    type=click.Choice(["peers"]),
    help="Models x optimisers x k against other packages, alike; --model, --optimizer, --steps, --peers and --estimator then "
    "take lists and restrict it.",
)
@click.option("--model", default="mlp", show_default=True, help="linear, mlp, cnn, transformer, wrn, or module:Class.")
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
@click.option(
    "--backend", "backends", callback=_names, default="func", show_default=True, help="Any of func,compiled,higher."
)
@click.option(
    "--peers", callback=_names, default="higher,torchopt,betty", show_default=True, help="Other packages to run."
)
@click.option("--optimizer", default="sgd", show_default=True, help="sgd, momentum or adam.")
@click.option("--lr", default=0.05, show_default=True, help="Inner learning rate.")
@click.option("--batch", default=16, show_default=True, type=click.IntRange(1))
@click.option("--repeats", default=3, show_default=True, type=click.IntRange(1), help="Timings of each, taken in turn.")
@click.option("--threads", default=2, show_default=True, type=click.IntRange(1, 1024))
@click.option("--device", default="cpu", show_default=True, help="auto, cpu, cuda, cuda:1, ...")
@click.option("--budget", default=60.0, show_default=True, help="--grid: seconds a cell; longer ones are left out.")
@click.option("--before", type=click.Path(exists=True, path_type=Path), help="--grid: earlier rows to stand beside.")
@click.option("--out", type=click.Path(path_type=Path), help="Write the rows as JSON.")
@click.option(
    "--plot", "picture", type=click.Path(path_type=Path), help="Write the cost-versus-accuracy plot (PNG or SVG)."
)
@click.pass_context
def hypergradient(
    context: click.Context,
    /,
    grid: str | None,
    model: str,
    optimizer: str,
    shape: tuple[int, ...] | None,
    steps: tuple[int, ...],
    backends: tuple[str, ...],
    peers: tuple[str, ...],
    threads: int,
    device: str,
    budget: float,
    before: Path | None,
    out: Path | None,
    picture: Path | None,
    **options: Any,
) -> None:
    """Cost and accuracy of hypergradient estimators on a model; with --grid peers, against other packages on many."""
    if grid is not None:
        _peer_grid(context, before, out, picture)
        return
    with plain_errors():
        import torch

        from ..bench import hypergradient as work
        from ..bench.peers import PEERS
        from ..bench.problems import BenchError
        from ..engine import BACKENDS
        from ..engine.registry import describe_choices
        from ..environment import pick_device

        for name, known in [
            (optimizer, OPTIMIZERS), *((b, (*BACKENDS, "compiled")) for b in backends), *((p, tuple(PEERS)) for p in peers)
        ]:  # fmt: skip
            if name not in known:
                raise click.UsageError(f"unknown '{name}'; {describe_choices(name, list(known))}")
        for given in ("budget", "before"):
            if context.get_parameter_source(given) is click.core.ParameterSource.COMMANDLINE:
                raise click.UsageError(f"--{given} is for --grid peers")
        torch.set_num_threads(threads)
        sys.path.insert(0, str(Path.cwd()))  # module:Class may be a file here, as for python -m
        try:
            where = str(pick_device(device))
            with working():
                result = work.sweep(
                    model, steps, shape=shape, backends=backends, peers=peers, optimizer=optimizer, device=where,
                    say=_say, **options,
                )  # fmt: skip
        except (BenchError, ValueError) as error:
            raise click.UsageError(str(error)) from None
        _print(work.table, result)
        _finish(result, out)
        if picture is not None:
            from ..bench.picture import plot

            plot(result, picture)
            done(f"wrote {picture}")


OF_GRID = frozenset({
    "grid", "model", "optimizer", "steps", "peers", "estimators", "batch", "repeats", "threads", "device", "budget",
    "before", "out", "picture",
})  # fmt: skip


def _peer_grid(context: click.Context, before: Path | None, out: Path | None, picture: Path | None) -> None:
    """``--grid peers``: the options that were given restrict the grid."""
    given = {
        name: value
        for name, value in context.params.items()
        if context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE
    }
    foreign = min(set(given) - OF_GRID, default=None)
    if foreign is not None:
        raise click.UsageError(
            f"--grid peers takes no {_flag(context, foreign)}; --model, --optimizer, --steps, --peers and --estimator restrict it"
        )
    with plain_errors():
        import torch

        from ..bench import grid as work
        from ..bench.peers import PEERS
        from ..bench.problems import BUILT_IN, BenchError
        from ..engine.registry import describe_choices
        from ..environment import pick_device

        wanted: dict[str, tuple[str, ...]] = {}
        for option, name, known, default in [
            ("model", "models", tuple(BUILT_IN), work.MODELS),
            ("optimizer", "optimizers", OPTIMIZERS, OPTIMIZERS),
            ("peers", "peers", tuple(PEERS), work.RIVALS),
        ]:
            chosen = given.get(option, default)
            wanted[name] = _names(None, None, chosen) if isinstance(chosen, str) else chosen
            for one in wanted[name]:
                if one not in known:
                    raise click.UsageError(
                        f"{_flag(context, option)}: unknown '{one}'; {describe_choices(one, list(known))}"
                    )
        earlier = json.loads(before.read_text()) if before else None
        if earlier is not None and earlier.get("benchmark") != "peers":
            raise click.UsageError(f"--before {before} is no result of --grid peers")
        torch.set_num_threads(context.params["threads"])
        try:
            with working():
                result = work.sweep(
                    **wanted,
                    steps=given.get("steps", work.STEPS),
                    estimators=given.get("estimators", ("exact",)),
                    batch=context.params["batch"],
                    repeats=given.get("repeats", 7),
                    budget=context.params["budget"],
                    device=str(pick_device(context.params["device"])),
                    say=_say,
                )
        except (BenchError, ValueError) as error:
            raise click.UsageError(str(error)) from None
        _print(lambda found: work.table(found, earlier), result)
        if not in_json():
            echo(work.sentence(result))
        _finish(result, out)
        if picture is not None:
            work.plot(result, picture, earlier)
            done(f"wrote {picture}")


def _flag(context: click.Context, name: str) -> str:
    return next((option.opts[0] for option in context.command.params if option.name == name), name)


@bench.command()
@results
@click.option(
    "--model",
    "models",
    callback=_names,
    default="mlp",
    show_default=True,
    help="Names of built-in ones, or module:Class.",
)
@click.option("--input", "shape", callback=_numbers, help="Shape of one example for module:Class, e.g. 3,32,32.")
@click.option(
    "--steps", default=32, show_default=True, type=click.IntRange(1), help="Inner steps that are asked about."
)
@click.option("--budget", help="Bytes for what a hypergradient holds, e.g. 2GB. Default: any.")
@click.option("--seconds", default=10.0, show_default=True, type=click.FloatRange(0, min_open=True), help="To spend.")
@click.option("--optimizer", type=click.Choice(OPTIMIZERS), default="sgd", show_default=True)
@click.option("--lr", default=0.05, show_default=True, help="Inner learning rate.")
@click.option("--batch", default=16, show_default=True, type=click.IntRange(1))
@click.option("--threads", default=2, show_default=True, type=click.IntRange(1, 1024))
@click.option("--device", default="cpu", show_default=True, help="auto, cpu, cuda, cuda:1, ...")
@click.option("--out", type=click.Path(path_type=Path), help="Write the rows as JSON.")
def plan(models: tuple[str, ...], threads: int, device: str, out: Path | None, **options: Any) -> None:
    """Which estimator and memory policy for a model, by measuring it for some seconds.

    The hypergradient is that of weights of the training examples.
    """
    with plain_errors():
        import torch

        from ..bench import plan as work
        from ..bench.problems import BenchError
        from ..engine import BadMemoryPolicy
        from ..environment import NoDevice, pick_device

        torch.set_num_threads(threads)
        sys.path.insert(0, str(Path.cwd()))  # module:Class may be a file here, as for python -m
        try:
            where = str(pick_device(device))
            found = work.sweep(models, device=where, say=note, show=show_line, **options)
        except (BadMemoryPolicy, BenchError, NoDevice) as error:
            raise click.UsageError(str(error)) from None
        if in_json():
            print_json(found)
        _finish(found, out)


@bench.command()
@results
@click.option("--model", "models", callback=_names, default="mlp", show_default=True, help="Names of built-in ones.")
@click.option("--steps", default="1,8", show_default=True, callback=_numbers, help="Numbers of inner steps k.")
@click.option(
    "--estimator",
    "estimators",
    callback=_names,
    default="exact,mixed,truncated(1),finite_difference,neumann(5),cg(5)",
    show_default=True,
)
@click.option("--optimizer", type=click.Choice(OPTIMIZERS), default="sgd", show_default=True)
@click.option("--lr", default=0.05, show_default=True, help="Inner learning rate.")
@click.option("--batch", default=16, show_default=True, type=click.IntRange(1))
@click.option("--threads", default=2, show_default=True, type=click.IntRange(1, 1024))
@click.option("--device", default="cpu", show_default=True, help="auto, cpu, cuda, cuda:1, ...")
@click.option("--out", type=click.Path(path_type=Path), help="Write the rows as JSON.")
def precision(models: tuple[str, ...], threads: int, device: str, out: Path | None, **options: Any) -> None:
    """What autocast does to each estimator's hypergradient, against the same estimator in float64."""
    with plain_errors():
        import torch

        from ..bench import precision as work
        from ..bench.problems import BenchError
        from ..environment import NoDevice, pick_device

        torch.set_num_threads(threads)
        warnings.simplefilter("ignore")  # that an implicit estimate means little is what its row shows
        try:
            found = work.sweep(models, device=str(pick_device(device)), say=note, **options)
        except (BenchError, NoDevice) as error:
            raise click.UsageError(str(error)) from None
        _print(work.table, found)
        _finish(found, out)


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
@click.option("--device", default="cpu", show_default=True, help="auto, cpu, cuda, cuda:1, ...")
@click.option("--out", type=click.Path(path_type=Path), help="Write the rows as JSON.")
def step(methods: tuple[str, ...], batch: int, repeats: int, threads: int, device: str, out: Path | None) -> None:
    """Cost of one training step of WRN-16-2 against the limit of counting passes."""
    with plain_errors():
        import torch

        from ..bench import step as work
        from ..environment import NoDevice, pick_device

        pairs = []
        for text in methods:
            name, _, mu = text.partition(":")
            if name not in ("mean_teacher", "fixmatch") or not (mu or "1").isdigit():
                raise click.UsageError(f"'{text}': write mean_teacher:1 or fixmatch:7")
            pairs.append((name, int(mu or 1)))
        torch.set_num_threads(threads)
        try:
            where = str(pick_device(device))
        except NoDevice as error:
            raise click.UsageError(str(error)) from None
        with working():
            result = work.sweep(pairs, batch=batch, repeats=repeats, device=where, say=_say)
        _print(work.table, result)
        _finish(result, out)


@bench.command()
@results
@click.option("--samples", default=40, show_default=True, type=click.IntRange(1), help="Most samples of an operator.")
@click.option("--only", default="", metavar="TEXT", help="Only operators whose name contains TEXT.")
@click.option("--out", type=click.Path(path_type=Path), help="Write the rows as JSON.")
def operators(samples: int, only: str, out: Path | None) -> None:
    """Every operator of the installed torch under the exact estimators: right, refused or wrong.

    Takes some minutes. Needs torch's test database (pip install expecttest).
    """
    with plain_errors():
        import torch

        from ..bench import operators as work
        from ..bench.problems import BenchError

        torch.set_num_threads(1)
        warnings.simplefilter("ignore")  # the samples try what operators warn of
        try:
            with working():
                result = work.sweep(samples, only, _say)
        except BenchError as error:
            raise click.UsageError(str(error)) from None
        _print(work.table, result)
        _finish(result, out)


def _say(message: str) -> None:
    note(message)


def _print(table: Callable[[dict[str, Any]], Table], result: dict[str, Any]) -> None:
    if in_json():
        print_json(result)
    else:
        from ..reporting.narrow import in_parts

        console = screen(width=plain_width())
        for part in in_parts(table(result), console):
            console.print(part)


def _finish(result: dict[str, Any], out: Path | None) -> None:
    for row in result.get("skipped", []):
        note(f"skipped {row['system']} at k = {row['steps']}: {row['why']}")
    if out is None:
        next_step(f"{click.get_current_context().command_path} ... --out FILE.json")
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=1) + "\n")
    done(f"wrote {out}")

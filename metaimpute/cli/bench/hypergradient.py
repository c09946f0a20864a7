"""``bench hypergradient``: cost and accuracy of estimators on a model, or beside other packages on many."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from ..errors import plain_errors
from ..options import results
from ..output import done, echo, in_json, note, working
from .options import OPTIMIZERS, names, numbers, placed, shaped, sized, written
from .showing import finish, show


@click.command()
@results
@click.option(
    "--grid",
    type=click.Choice(["peers"]),
    help="Models x optimisers x k against other packages, alike; --model, --optimizer, --steps, --peers and --estimator then "
    "take lists and restrict it.",
)
@click.option("--model", default="mlp", show_default=True, help="linear, mlp, cnn, transformer, wrn, or module:Class.")
@shaped
@click.option("--steps", default="1,4,16", show_default=True, callback=numbers, help="Numbers of inner steps k.")
@click.option(
    "--estimator",
    "estimators",
    callback=names,
    default="exact,mixed,truncated(1),finite_difference,neumann(5),cg(5),first_order,head",
    show_default=True,
)
@click.option(
    "--memory", "memories", callback=names, default="store,recompute,checkpoint(4),revolve(4)", show_default=True
)
@click.option(
    "--backend", "backends", callback=names, default="func", show_default=True, help="Any of func,compiled,higher."
)
@click.option(
    "--peers", callback=names, default="higher,torchopt,betty", show_default=True, help="Other packages to run."
)
@click.option("--optimizer", default="sgd", show_default=True, help="sgd, momentum or adam.")
@click.option("--lr", default=0.05, show_default=True, help="Inner learning rate.")
@sized
@click.option("--repeats", default=3, show_default=True, type=click.IntRange(1), help="Timings of each, taken in turn.")
@placed
@click.option("--budget", default=60.0, show_default=True, help="--grid: seconds a cell; longer ones are left out.")
@click.option("--before", type=click.Path(exists=True, path_type=Path), help="--grid: earlier rows to stand beside.")
@written
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

        from ...bench import hypergradient as work
        from ...bench.peers import PEERS
        from ...bench.problems import BenchError
        from ...engine import BACKENDS
        from ...engine.registry import describe_choices
        from ...environment import pick_device

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
                    say=note, **options,
                )  # fmt: skip
        except (BenchError, ValueError) as error:
            raise click.UsageError(str(error)) from None
        show(work.table, result)
        finish(result, out)
        if picture is not None:
            from ...bench.picture import plot

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

        from ...bench import grid as work
        from ...bench.peers import PEERS
        from ...bench.problems import BUILT_IN, BenchError
        from ...engine.registry import describe_choices
        from ...environment import pick_device

        wanted: dict[str, tuple[str, ...]] = {}
        for option, name, known, default in [
            ("model", "models", tuple(BUILT_IN), work.MODELS),
            ("optimizer", "optimizers", OPTIMIZERS, OPTIMIZERS),
            ("peers", "peers", tuple(PEERS), work.RIVALS),
        ]:
            chosen = given.get(option, default)
            wanted[name] = names(None, None, chosen) if isinstance(chosen, str) else chosen
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
                    say=note,
                )
        except (BenchError, ValueError) as error:
            raise click.UsageError(str(error)) from None
        show(lambda found: work.table(found, earlier), result)
        if not in_json():
            echo(work.sentence(result))
        finish(result, out)
        if picture is not None:
            work.plot(result, picture, earlier)
            done(f"wrote {picture}")


def _flag(context: click.Context, name: str) -> str:
    return next((option.opts[0] for option in context.command.params if option.name == name), name)

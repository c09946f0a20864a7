"""``bench plan``: which estimator and memory policy for a model."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from ..errors import plain_errors
from ..options import results
from ..output import in_json, note, print_json
from ..output import result as show_line
from .options import names, placed, ruled, shaped, sized, written
from .showing import finish


@click.command()
@results
@click.option(
    "--model",
    "models",
    callback=names,
    default="mlp",
    show_default=True,
    help="Names of built-in ones, or module:Class.",
)
@shaped
@click.option(
    "--steps", default=32, show_default=True, type=click.IntRange(1), help="Inner steps that are asked about."
)
@click.option("--budget", help="Bytes for what a hypergradient holds, e.g. 2GB. Default: any.")
@click.option("--seconds", default=10.0, show_default=True, type=click.FloatRange(0, min_open=True), help="To spend.")
@ruled
@sized
@placed
@written
def plan(models: tuple[str, ...], threads: int, device: str, out: Path | None, **options: Any) -> None:
    """Which estimator and memory policy for a model, by measuring it for some seconds.

    The hypergradient is that of weights of the training examples.
    """
    with plain_errors():
        import torch

        from ...bench import plan as work
        from ...bench.problems import BenchError
        from ...engine import BadMemoryPolicy
        from ...environment import NoDevice, pick_device

        torch.set_num_threads(threads)
        sys.path.insert(0, str(Path.cwd()))  # module:Class may be a file here, as for python -m
        try:
            where = str(pick_device(device))
            found = work.sweep(models, device=where, say=note, show=show_line, **options)
        except (BadMemoryPolicy, BenchError, NoDevice) as error:
            raise click.UsageError(str(error)) from None
        if in_json():
            print_json(found)
        finish(found, out)

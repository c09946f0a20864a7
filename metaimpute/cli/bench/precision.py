"""``bench precision``: what autocast does to each estimator."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import click

from ..errors import plain_errors
from ..options import results
from ..output import note
from .options import names, numbers, placed, ruled, sized, written
from .showing import finish, show


@click.command()
@results
@click.option("--model", "models", callback=names, default="mlp", show_default=True, help="Names of built-in ones.")
@click.option("--steps", default="1,8", show_default=True, callback=numbers, help="Numbers of inner steps k.")
@click.option(
    "--estimator",
    "estimators",
    callback=names,
    default="exact,mixed,truncated(1),finite_difference,neumann(5),cg(5)",
    show_default=True,
)
@ruled
@sized
@placed
@written
def precision(models: tuple[str, ...], threads: int, device: str, out: Path | None, **options: Any) -> None:
    """What autocast does to each estimator's hypergradient, against the same estimator in float64."""
    with plain_errors():
        import torch

        from ...bench import precision as work
        from ...bench.problems import BenchError
        from ...environment import NoDevice, pick_device

        torch.set_num_threads(threads)
        warnings.simplefilter("ignore")  # that an implicit estimate means little is what its row shows
        try:
            found = work.sweep(models, device=str(pick_device(device)), say=note, **options)
        except (BenchError, NoDevice) as error:
            raise click.UsageError(str(error)) from None
        show(work.table, found)
        finish(found, out)

"""``bench operators``: every operator of the installed torch."""

from __future__ import annotations

import warnings
from pathlib import Path

import click

from ..errors import plain_errors
from ..options import results
from ..output import note, working
from .options import written
from .showing import finish, show


@click.command()
@results
@click.option("--samples", default=40, show_default=True, type=click.IntRange(1), help="Most samples of an operator.")
@click.option("--only", default="", metavar="TEXT", help="Only operators whose name contains TEXT.")
@written
def operators(samples: int, only: str, out: Path | None) -> None:
    """Every operator of the installed torch under the exact estimators: right, refused or wrong.

    Takes some minutes. Needs torch's test database (pip install expecttest).
    """
    with plain_errors():
        import torch

        from ...bench import operators as work
        from ...bench.problems import BenchError

        torch.set_num_threads(1)
        warnings.simplefilter("ignore")  # the samples try what operators warn of
        try:
            with working():
                result = work.sweep(samples, only, note)
        except BenchError as error:
            raise click.UsageError(str(error)) from None
        show(work.table, result)
        finish(result, out)

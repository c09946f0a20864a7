"""``metaimpute impute`` and ``metaimpute predict``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .errors import plain_errors
from .options import imports
from .output import echo, screen

if TYPE_CHECKING:
    from ..inference import Predictions, Predictor

SHOWN = 10


def labelling(command: Callable[..., Any]) -> Callable[..., Any]:
    """What both commands ask for beside the run."""
    truth = "Table with columns id and label (or value), to print the error of the labels against."
    for option in (
        imports,
        click.option("--device", default="auto", show_default=True),
        click.option("--truth", type=click.Path(path_type=Path, exists=True, dir_okay=False), help=truth),
        click.option("--min-confidence", type=click.FloatRange(0, 1), help="Leave out labels that are less probable."),
    ):
        command = option(command)
    return command


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--out", type=click.Path(path_type=Path), help="File of labels, .csv or .parquet; default RUN/labels.csv."
)
@labelling
def impute(run: Path, out: Path | None, min_confidence: float | None, truth: Path | None, device: str) -> None:
    """Write labels for the unlabelled examples that RUN was trained on: id, label or value, confidence."""
    with plain_errors():
        from ..inference import impute as impute_run
        from ..rundir.files import refuse_input
        from ..rundir.layout import PREDICTED

        found, predictor = impute_run(run, device)
        refuse_input(out or run / PREDICTED, truth, *predictor.task.files_read())
        _finish(found, predictor, out or run / PREDICTED, min_confidence, truth)


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("inputs", type=click.Path(path_type=Path, exists=True))
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="File of labels, .csv or .parquet; without it, a table is printed.",
)
@labelling
def predict(
    run: Path, inputs: Path, out: Path | None, min_confidence: float | None, truth: Path | None, device: str
) -> None:
    """Labels for new INPUTS (a file or a folder) by the network of RUN."""
    with plain_errors():
        from ..inference import load
        from ..rundir.files import refuse_input

        predictor = load(run, device)
        if out is not None:
            refuse_input(out, inputs, truth)
        found = predictor.predict(inputs)
        for line in predictor.task.read_warnings:
            echo(f"warning: {line}")
        _finish(found, predictor, out, min_confidence, truth)


def _finish(
    found: Predictions, predictor: Predictor, out: Path | None, least: float | None, truth: Path | None
) -> None:
    """Writes or prints the labels, and says what there is to say about them."""
    from rich.table import Table

    from ..inference.predictions import first_few
    from ..terminal import cell

    kept = found if least is None else found.at_least(least)
    console = screen(soft_wrap=True)
    if out is None:
        table = Table()
        for name in kept.header:
            table.add_column(cell(name))
        for row in kept.rows()[:SHOWN]:
            table.add_row(*map(cell, row))
        console.print(table)
        if len(kept) > SHOWN:
            echo(f"and {len(kept) - SHOWN:,} more; --out FILE writes all")
    else:
        kept.write(out)
        echo(f"wrote {len(kept):,} labels to {out}")
    if least is not None:
        echo(f"left out {len(found) - len(kept):,} of {len(found):,} below confidence {least:g}")
    if kept.probabilities is not None and len(kept):
        counts = [f"{name} {count:,}" for name, count in kept.counts().items()]
        shown = ", ".join(counts[:SHOWN]) + (f" and {len(counts) - SHOWN} more classes" if len(counts) > SHOWN else "")
        echo(f"labels: {shown}; mean confidence {float(kept.probabilities.max(-1).values.mean()):.2f}")
    if kept.values is not None and len(kept):
        for line in _ranges(kept):
            echo(line)
    if truth is not None:
        error, known = kept.against(truth, predictor.task.output)
        unit = "%" if kept.probabilities is not None else " (root mean squared)"
        echo(f"error against {truth}: {error:.2f}{unit} of {known:,} labels")
        strangers = kept.strangers(truth)
        if strangers:
            names = first_few(dict.fromkeys(strangers))
            echo(f"{len(strangers):,} of {known:,} true labels are no class of this network: {names}")


def _ranges(found: Predictions) -> list[str]:
    """Count, mean and range of predicted values, a line for each of the first few outputs."""
    assert found.values is not None
    columns = found.values.double().T
    names = ["values"] if len(columns) == 1 else found.names
    lines = [
        f"{name}: {len(found):,}, mean {float(column.mean()):.4g}, from {float(column.min()):.4g} to {float(column.max()):.4g}"
        for name, column in zip(names[:SHOWN], columns, strict=False)
    ]
    return lines + ([f"and {len(columns) - SHOWN} more values of each row"] if len(columns) > SHOWN else [])

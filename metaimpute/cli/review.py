"""``metaimpute review`` and ``metaimpute suggest``."""

from __future__ import annotations

from pathlib import Path

import click

from .errors import plain_errors
from .options import imports
from .output import done, echo, next_step, screen, working
from .predict import DATA

SHOWN = 20  # rows in a terminal, where a file has them all


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="The page (*.html); default RUN/review.html.")
@click.option(
    "--before", type=click.Path(path_type=Path), help="An earlier run on the same rows, to say what has changed."
)
@click.option("--data", type=click.Path(path_type=Path, exists=True), help=DATA)
@click.option(
    "--rows", type=click.IntRange(min=1), help="Rows of a section at most; default the doubtful ones, 20 to 100."
)
@click.option("--device", default="auto", show_default=True)
@imports
def review(run: Path, out: Path | None, before: Path | None, data: Path | None, rows: int | None, device: str) -> None:
    """One HTML page of what a person should look at in the labels of RUN; it needs no network.

    The least sure labels beside the labelled rows that are most like them, given labels that look wrong, duplicates, rows unlike
    all others, classes that are never predicted. Corrections typed in there come back as a file for metaimpute run --labels.
    """
    with plain_errors():
        from ..review import collect, page
        from ..rundir.files import refuse_input, write_text
        from ..rundir.layout import REVIEW
        from ..rundir.origin import read_begun
        from ..terminal import argument

        target = out or run / REVIEW
        if target.suffix.lower() not in (".html", ".htm"):
            raise click.UsageError(f"--out: {target.name} is no page; name it with .html")
        with working():
            found = collect(run, before=before, data=data, device=device, rows=rows)
            refuse_input(target, data)
            write_text(target, page(found))
        for part in found.parts:
            shown = (
                f"{len(part.items):,}; doubtful are {part.total:,}" if part.slug == "doubtful" else f"{part.total:,}"
            )
            echo(f"{part.title.lower()}: {shown}")
        for one in found.classes:
            if one.odd:
                echo(f"class '{one.name}': {one.odd}")
        if found.changes is not None:
            echo(
                f"changed since {argument(before or run)}: {found.changes.changed:,} of {found.changes.shared:,} labels"
            )
            if found.changes.withdrawn:
                echo(
                    f"warning: corrections of that run that this one was made without: {found.changes.withdrawn:,}; "
                    "give --labels a file with all of them",
                    err=True,
                )
        echo(f"wrote {target}")
        recipe = read_begun(run).recipe
        next_step(f"open it, then metaimpute run {argument(recipe)} --labels CORRECTIONS.csv")


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("-n", "count", type=click.IntRange(min=1), default=20, show_default=True, help="How many rows.")
@click.option(
    "--out", type=click.Path(path_type=Path), help="File to fill in, .csv or .parquet, for metaimpute run --labels."
)
@click.option("--data", type=click.Path(path_type=Path, exists=True), help=DATA)
@click.option("--device", default="auto", show_default=True)
@imports
def suggest(run: Path, count: int, out: Path | None, data: Path | None, device: str) -> None:
    """Name the unlabelled rows of RUN that a person should label next: the least sure ones that are unlike each other."""
    with plain_errors():
        from rich.table import Table

        from ..review import suggest as suggest_rows
        from ..rundir.files import refuse_input
        from ..terminal import argument, cell

        if out is not None:
            refuse_input(out, data)
        with working():
            found = suggest_rows(run, count, data=data, device=device)
        table = Table()
        header, rows = found.brief()
        for name in header:
            table.add_column(cell(name))
        shown = rows if out is None else rows[:SHOWN]
        for row in shown:
            table.add_row(*map(cell, row))
        screen(soft_wrap=True).print(table)
        if len(shown) < len(rows):
            echo(f"and {len(rows) - len(shown):,} more")
        if out is None:
            next_step(f"metaimpute suggest {argument(run)} --out FILE, which has a column to fill in")
        else:
            found.write(out)
            done(f"wrote {len(rows):,} rows to {out}")
            next_step(f"fill in label, then metaimpute run RECIPE --labels {argument(out)}")

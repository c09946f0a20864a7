"""``metaimpute init``: a recipe for one's own data, from looking at it."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from .errors import plain_errors
from .output import echo, screen

KINDS = ("images", "text", "table")


@click.command()
@click.argument("kind", metavar="images|text|table")
@click.argument("path", type=click.Path(path_type=Path))
@click.option(
    "--out", type=click.Path(path_type=Path), help="Recipe to write; default: the name of PATH, with .yaml, here."
)
@click.option(
    "--labels",
    type=click.Path(path_type=Path),
    help="Table that names images in PATH and says their labels: CSV or Parquet. For images.",
)
@click.option("--label", metavar="COLUMN", help="Column that holds the label or target: of text, tables and --labels.")
@click.option(
    "--missing",
    multiple=True,
    metavar="WORD",
    help='What means "none" beside blank: of text, tables and --labels. Repeatable.',
)
@click.option(
    "--set", "sets", multiple=True, metavar="KEY=VALUE", help="Set a key of the task, e.g. task.id=name. Repeatable."
)
@click.option("--force", is_flag=True, help="Write over an existing recipe.")
def init(
    kind: str,
    path: Path,
    out: Path | None,
    labels: Path | None,
    label: str | None,
    missing: tuple[str, ...],
    sets: tuple[str, ...],
    force: bool,
) -> None:
    """Look at your own data in PATH and write a recipe for it.

    \b
    images: a folder with labelled/CLASS/, unlabelled/ and perhaps test/CLASS/,
    or any folder, and a table with --labels
    text, table: a CSV or Parquet file whose label column is blank where a row has no label
    """
    with plain_errors():
        from rich.table import Table

        from ..engine.registry import UnknownName, describe_choices
        from ..recipes.draft import draft
        from ..recipes.source import RecipeError
        from ..rundir.files import refuse_input, refuse_irregular, write_text
        from ..terminal import argument, cell

        if kind not in KINDS:
            raise UnknownName(f"unknown kind of data '{kind}'; {describe_choices(kind, list(KINDS))}")
        target = out or Path(f"{path.resolve().stem}.yaml")
        refuse_irregular(target)
        refuse_input(target, path, labels)
        if target.exists() and not force:
            raise RecipeError(f"{target} exists already; write over it with --force, or choose another --out")
        found = draft(kind, path, label, missing, sets, labels=labels)
        console = screen(soft_wrap=not sys.stdout.isatty())
        table = Table(box=None, pad_edge=False, show_header=False)
        table.add_column(style="bold")
        table.add_column(overflow="fold")
        for what, value in found.facts:
            table.add_row(what, cell(value))
        console.print(table)
        for warning in found.warnings:
            echo(f"warning: {warning}")
        write_text(target, found.text)
        echo(f"wrote {target}; next: metaimpute run {argument(target)}")

"""``metaimpute list`` and ``metaimpute data``: what there is, what is here, how to get the rest."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..terminal import cell
from .errors import plain_errors
from .options import imports
from .output import echo, screen

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text


SYSTEMS = ("SL", "Pi model", "PL", "MixUp", "VAT", "MT", "MM", "FM", "UDA")  # as the paper's tables list them
WIDE = 150  # columns of a terminal from which a row takes one line


def paper_order(table: int, row: str, data: str) -> tuple[Any, ...]:
    """Sort key of a table's row: data set by data set, as the paper lists systems; numbers in names count as numbers."""
    system = re.split(r",| \(", row)[0]
    base = system.removesuffix("-L2I")
    rank = SYSTEMS.index(base) if base in SYSTEMS else len(SYSTEMS)
    numbered = [(int(part) if part.isdigit() else 0, part) for part in re.split(r"(\d+)", data)]
    return table, numbered, rank, system != base, row.endswith("(L)")


def recipe_rows(about: list[tuple[Path, Any]]) -> list[tuple[str, str, str, str, tuple[str, ...]]]:
    """Table, system, data, recipe and overrides: rows of the paper's tables in its order, then recipes that stand for none."""
    found = []
    for path, recipe in about:
        for row in recipe.paper:
            number = "task.label_share" if any(n < 1 for n in row.labels) else "task.labels"
            columns = [f"{number}={'|'.join(f'{n:g}' for n in row.labels)}"] if row.labels else []
            key = paper_order(row.table, row.row, row.data)
            found.append((key, (str(row.table), row.row, row.data, str(path), (*row.set, *columns))))
        if not recipe.paper:
            system, _, data = recipe.title.partition(", ")
            key = paper_order(99, system, path.stem.split("_")[0])
            found.append((key, ("-", system, data, str(path), ())))
    return [row for _, row in sorted(found, key=lambda pair: pair[0])]


def _lines(parts: Iterable[str]) -> Text:
    from rich.text import Text

    return Text("\n").join(map(cell, parts))


def recipe_table(about: list[tuple[Path, Any]], width: int) -> Table:
    """The rows as a table: five columns, or in a narrow terminal three, with what does not fit on lines of its own."""
    from rich.table import Table

    narrow = width < WIDE
    table = Table(box=None, pad_edge=False)
    for column in (
        ("table", "system, data", "recipe, --set") if narrow else ("table", "system", "data", "recipe", "--set")
    ):
        table.add_column(column, overflow="fold", no_wrap=column.startswith("recipe"))  # a path stays whole
    for number, system, data, path, sets in recipe_rows(about):
        if narrow:
            table.add_row(number, _lines(filter(None, (system, data))), _lines((path, *sets)))
        else:
            table.add_row(*map(cell, (number, system, data, path, " ".join(sets))))
    return table


KINDS = ("tasks", "models", "methods", "problems", "estimators", "optimizers", "recipes")


@click.command(name="list")
@click.argument("kind")
@imports
def list_(kind: str) -> None:
    """List what there is of a KIND, one line each: tasks, models, methods, problems, estimators, optimizers or recipes."""
    with plain_errors():
        from ..engine.registry import UnknownName, describe_choices

        if kind not in KINDS:
            raise UnknownName(f"unknown kind '{kind}'; {describe_choices(kind, list(KINDS))}")
        from rich.table import Table

        from .. import engine
        from ..methods import methods
        from ..models import models
        from ..plugins import load_installed
        from ..problems import problems
        from ..tasks import tasks

        for line in load_installed():
            echo(line, err=True)
        console = screen(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else 160)
        table = Table(box=None, pad_edge=False)
        if kind == "recipes":
            from ..recipes.recipe import about_recipes

            table = recipe_table(about_recipes(Path("recipes")), console.width)
        else:
            registry: Any = {
                "tasks": tasks,
                "models": models,
                "methods": methods,
                "problems": problems,
                "estimators": engine.estimators,
                "optimizers": engine.optimizers,
            }[kind]
            table.add_column("name")
            table.add_column("what it is", overflow="fold")
            for name in registry:
                table.add_row(cell(name), cell(registry.summary(name)))
        console.print(table)


@click.group()
def data() -> None:
    """Fetch data and weights, or say what is here."""


@data.command()
def status() -> None:
    """What is here and where it was looked for."""
    with plain_errors():
        from ..fetch import SOURCES

        for name, source in SOURCES.items():
            found = source.find()
            echo(f"{name}: {found if found else f'not here; {source.how(name)}'}")


@data.command()
@click.argument("name")
def get(name: str) -> None:
    """Download NAME into the cache, where the network allows."""
    with plain_errors():
        from ..engine.registry import describe_choices
        from ..fetch import SOURCES
        from ..recipes.source import RecipeError

        if name not in SOURCES:
            raise RecipeError(f"unknown data '{name}'; {describe_choices(name, list(SOURCES))}")
        echo(f"{name}: {SOURCES[name].find() or SOURCES[name].get()}")

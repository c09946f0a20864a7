"""``metaimpute list`` and ``metaimpute data``: what there is, what is here, how to get the rest."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from .errors import plain_errors


def recipe_rows(about: list[tuple[Path, Any]]) -> list[tuple[str, ...]]:
    """Rows of the paper's tables in their order, then recipes that stand for none."""
    found = []
    for path, recipe in about:
        for row in recipe.paper:
            number = "task.label_share" if any(n < 1 for n in row.labels) else "task.labels"
            columns = [f"{number}={'|'.join(f'{n:g}' for n in row.labels)}"] if row.labels else []
            found.append((row.table, str(row.table), row.row, row.data, str(path), " ".join([*row.set, *columns])))
        if not recipe.paper:
            found.append((99, "-", recipe.title, "", str(path), ""))
    return [row[1:] for row in sorted(found, key=lambda row: row[0])]


KINDS = ("tasks", "models", "methods", "problems", "estimators", "optimizers", "recipes")


@click.command(name="list")
@click.argument("kind", type=click.Choice(KINDS))
def list_(kind: str) -> None:
    """List what there is of a KIND, one line each."""
    with plain_errors():
        from rich.console import Console
        from rich.table import Table

        from .. import engine
        from ..methods import methods
        from ..models import models
        from ..problems import problems
        from ..tasks import tasks

        table = Table(box=None, pad_edge=False)
        if kind == "recipes":
            from ..recipes import about_recipes

            for column in ("table", "system", "data", "recipe", "--set"):
                table.add_column(column, overflow="fold")
            for row in recipe_rows(about_recipes(Path("recipes"))):
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
            click.echo(f"{name}: {found if found else f'not here; metaimpute data get {name}'}")


@data.command()
@click.argument("name")
def get(name: str) -> None:
    """Download NAME into the cache, where the network allows."""
    with plain_errors():
        from ..engine.registry import describe_choices
        from ..fetch import SOURCES
        from ..yaml_source import RecipeError

        if name not in SOURCES:
            raise RecipeError(f"unknown data '{name}'; {describe_choices(name, list(SOURCES))}")
        click.echo(f"{name}: {SOURCES[name].find() or SOURCES[name].get()}")

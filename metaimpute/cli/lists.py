"""``metaimpute list`` and ``metaimpute data``: what there is, what is here, how to get the rest."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..catalog import KINDS, about, entries
from ..progress import phase
from ..terminal import cell
from .complete import complete_kinds
from .errors import plain_errors
from .options import imports, results
from .output import echo, in_json, next_step, note, plain_width, print_json, screen, working

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


def _entries(kind: str) -> dict[str, str]:
    """Names and summaries; from the registries where something has imported them, and may have added to them."""
    if kind == "recipes" or "metaimpute.engine" not in sys.modules:
        return entries(kind)
    from .. import engine
    from ..ensemble.members import members
    from ..methods import methods
    from ..models import models
    from ..problems import problems
    from ..tasks import tasks

    registries: dict[str, Any] = {
        "tasks": tasks, "models": models, "methods": methods, "problems": problems, "estimators": engine.estimators,
        "optimizers": engine.optimizers, "systems": members,
    }  # fmt: skip
    return {name: registries[kind].summary(name) for name in registries[kind]}


def _names(found: dict[str, str], width: int) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column("name", style="bold", no_wrap=True, min_width=min(26, width // 3))
    table.add_column("what it is", overflow="fold")
    for name, summary in found.items():
        table.add_row(cell(name), cell(summary))
    return table


@click.command(name="list")
@click.argument("kind", required=False, shell_complete=complete_kinds)
@results
@imports
def list_(kind: str | None) -> None:
    """List what there is of a KIND, one line each; without one, everything.

    KIND: tasks, models, methods, problems, estimators, optimizers, systems or recipes.
    """
    with plain_errors(light=True):
        if kind is not None and kind not in KINDS:
            from ..engine.registry import UnknownName, describe_choices

            raise UnknownName(f"unknown kind '{kind}'; {describe_choices(kind, list(KINDS))}")
        from ..plugins import load_installed

        for line in load_installed():
            note(line)
        if in_json():
            kinds = KINDS if kind is None else (kind,)
            print_json(
                {one: [{"name": name, "summary": text} for name, text in _entries(one).items()] for one in kinds}
            )
            return
        console = screen(width=plain_width())
        if kind == "recipes":
            said: Any = about(Path("recipes"))
            if said is None:
                from ..recipes.recipe import about_recipes

                with plain_errors():
                    said = about_recipes(Path("recipes"))
            console.print(recipe_table(said, console.width))
        elif kind is not None:
            console.print(_names(_entries(kind), console.width))
        else:
            for number, one in enumerate(KINDS):
                if number:
                    console.print()
                console.print(cell(one, "bold cyan"))
                console.print(_names(_entries(one), console.width))
        next_step(*NEXT.get(kind or "", ("metaimpute run RECIPE",)))


NEXT = {
    "recipes": ("metaimpute run RECIPE", "metaimpute copy RECIPE, to edit it"),
    "methods": ("metaimpute run RECIPE --set method.name=NAME",),
    "models": ("metaimpute run RECIPE --set model.name=NAME",),
    "problems": ("metaimpute run RECIPE --set problem.name=NAME",),
    "estimators": ("metaimpute run RECIPE --set problem.estimator=NAME",),
    "systems": ('metaimpute run RECIPE --set "choose.systems=[NAME, NAME]"',),
    "tasks": ("metaimpute list recipes",),
}


@click.group()
def data() -> None:
    """Fetch data and weights, say what is here, or write data to try the package on."""


@data.command()
def status() -> None:
    """What is here and where it was looked for."""
    with plain_errors():
        from ..fetch import SOURCES

        for name, source in SOURCES.items():
            found = source.find()
            echo(f"{name}: {found if found else f'not here; {source.how(name)}'}")
        next_step("metaimpute data get NAME")


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
        here = SOURCES[name].find()
        if not here:
            if not sys.stderr.isatty():
                note(f"fetching {name}")
            with working(), phase(f"fetching {name}"):
                here = SOURCES[name].get()
        echo(f"{name}: {here}")
        next_step("metaimpute list recipes")


LABEL_OPTION = {"images": "", "text": " --label opinion", "table": " --label diagnosis"}


@data.command()
@click.argument("kind", metavar="images|text|table")
@click.argument("path", type=click.Path(path_type=Path))
@click.option(
    "--seed", type=int, default=0, show_default=True, help="Decides which rows are drawn, and which keep their label."
)
def example(kind: str, path: Path, seed: int) -> None:
    """Write the tutorial's data to PATH, few labels in it, and the true labels of the rest to a file beside it.

    \b
    images: a folder of 1,040 handwritten digits, 40 of them labelled
    text:   a CSV file of 1,040 sentences from film reviews, 40 of them labelled
    table:  a CSV file of 569 tumours, 28 of them with a diagnosis
    """
    with plain_errors():
        from ..engine.registry import UnknownName, describe_choices
        from ..example_data import WRITERS, truth_of
        from ..recipes.source import RecipeError
        from ..terminal import argument

        if kind not in WRITERS:
            raise UnknownName(f"unknown kind of data '{kind}'; {describe_choices(kind, list(WRITERS))}")
        for target in (path, truth_of(path)):
            if target.exists() or target.is_symlink():
                raise RecipeError(f"{target} exists already; give another PATH")
        echo(WRITERS[kind](path, seed=seed))
        next_step(f"metaimpute init {kind} {argument(path)}{LABEL_OPTION[kind]}")

"""Options that several commands share."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click

from .errors import plain_errors
from .output import JSON, QUIET

CORRECTIONS = "task.corrections"


def _import_all(context: click.Context, parameter: click.Parameter, names: tuple[str, ...]) -> None:
    if names:
        with plain_errors():
            from ..plugins import import_module

            for name in names:
                import_module(name)


def imports(command: Callable[..., Any]) -> Callable[..., Any]:
    """``--import MODULE``: run a module of the user's that registers components, or before a command's name adds commands.

    It comes before ``--help``, which shows what it has added.
    """
    return click.option(
        "--import", metavar="MODULE", multiple=True, expose_value=False, callback=_import_all, is_eager=True,
        help="Import a Python module or file that registers a task, model, method, problem and so on. Repeatable.",
    )(command)  # fmt: skip


def _kept(key: str) -> Callable[[click.Context, click.Parameter, bool], bool]:
    def keep(context: click.Context, parameter: click.Parameter, value: bool) -> bool:
        context.meta[key] = value
        return value

    return keep


def results(command: Callable[..., Any]) -> Callable[..., Any]:
    """``--json`` and ``--quiet`` of a command that prints results; :mod:`metaimpute.cli.output` obeys them."""
    for option in (
        click.option(
            "-q", "--quiet", is_flag=True, expose_value=False, is_eager=True, callback=_kept(QUIET),
            help="Leave out progress, notes and the next step; results, warnings and errors stay.",
        ),
        click.option(
            "--json", "as_json", is_flag=True, expose_value=False, is_eager=True, callback=_kept(JSON),
            help="Print the results as one JSON document on the standard output, and nothing else there.",
        ),
    ):  # fmt: skip
        command = option(command)
    return command


def _address(context: click.Context, parameter: click.Parameter, given: str | None) -> str | None:
    if given is not None and given.endswith((".yaml", ".yml")):
        raise click.BadParameter(f"'{given}' is a file, not a cluster's address; write --ray behind it")
    return given


def on_ray(work: str) -> Callable[..., Any]:
    """``--ray [ADDRESS]``: the nodes of a Ray cluster that runs already do the work, which help names."""
    return click.option(
        "--ray", metavar="[ADDRESS]", is_flag=False, flag_value="auto", callback=_address,
        help=f"{work} on a Ray cluster: HOST:PORT, ray://HOST:PORT, or without ADDRESS the one that runs here.",
    )  # fmt: skip


def _one_file(context: click.Context, parameter: click.Parameter, files: tuple[Path, ...]) -> Path | None:
    if len(files) > 1:
        raise click.BadParameter("one file holds all corrections; put the rows of both into it")
    return files[0] if files else None


def labels_file(command: Callable[..., Any]) -> Callable[..., Any]:
    """``--labels FILE``, which sets ``task.corrections``: :func:`as_set`."""
    return click.option(
        "--labels", type=click.Path(path_type=Path, exists=True, dir_okay=False), multiple=True, callback=_one_file,
        help="Labels that go before those of one's own data: a table of id and label, as metaimpute review writes it.",
    )(command)  # fmt: skip


def as_set(labels: Path | None) -> tuple[str, ...]:
    """The assignment that ``--labels`` stands for."""
    return () if labels is None else (f"{CORRECTIONS}={json.dumps(str(labels), ensure_ascii=False)}",)


@contextlib.contextmanager
def naming_labels(labels: Path | None, recipe: str = "") -> Iterator[None]:
    """A mistake in the file of ``--labels`` is said of that option, and not of the key of the recipe that it sets.

    Args:
        recipe: what to call it, where there are several.
    """
    from ..errors import UserError

    try:
        yield
    except UserError as error:
        place, _, reason = str(error).partition(f": {CORRECTIONS}: ")
        if labels is None or not reason or not place.startswith(f"--set {CORRECTIONS}="):
            raise
        if reason.startswith("unknown key"):
            reason = "the recipe's task is not on data of your own; its labels are what they are"
        raise UserError(f"{recipe and f'{recipe}: '}--labels: {reason}") from None

"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from .errors import plain_errors
from .output import QUIET


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


def as_json(command: Callable[..., Any]) -> Callable[..., Any]:
    """``--json``: the results as one JSON document, and nothing else, on the standard output."""
    return click.option("--json", "as_json", is_flag=True, help="Print the results as one JSON document.")(command)


def quiet(command: Callable[..., Any]) -> Callable[..., Any]:
    """``--quiet``, which :mod:`metaimpute.cli.output` obeys."""
    return click.option(
        "-q", "--quiet", is_flag=True, expose_value=False, callback=_be_quiet,
        help="Leave out progress, notes and the next step; results, warnings and errors stay.",
    )(command)  # fmt: skip


def _be_quiet(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    context.meta[QUIET] = value

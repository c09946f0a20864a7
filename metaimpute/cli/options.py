"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from .errors import plain_errors
from .output import JSON, QUIET


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

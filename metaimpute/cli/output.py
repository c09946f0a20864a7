"""How a command speaks: everything spelled out for a terminal, and quietly done when nobody reads any more."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from typing import TYPE_CHECKING, Any, NoReturn

import click

from ..errors import UNREAD
from ..terminal import spelled

if TYPE_CHECKING:
    from rich.console import Console

GONE = (errno.EPIPE, errno.EIO)  # the reader of a pipe, or the terminal


def echo(message: object, err: bool = False) -> None:
    """Says a line, whatever it holds."""
    click.echo(spelled(message), err=err)


def screen(**options: Any) -> Console:
    """Rich's console for tables, whose cells are made with :func:`metaimpute.terminal.cell`.

    When the reader has gone it raises BrokenPipeError like any other output; rich would exit at once, a run without a
    checkpoint too.
    """
    from rich.console import Console

    class Plain(Console):
        def on_broken_pipe(self) -> None:
            raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))

    return Plain(markup=False, highlight=False, emoji=False, **options)


def prepare_streams() -> None:
    """Output that is closed goes nowhere, and a letter that a terminal does not know is spelled out."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115, PTH123
        if hasattr(stream := getattr(sys, name), "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def unread(error: OSError) -> bool:
    """Whether an error says that the reader of the output has gone."""
    return error.errno in GONE and error.filename is None


def end_unread() -> NoReturn:
    """Ends a command whose output nobody reads, without a word."""
    silence()
    sys.exit(UNREAD)


def silence() -> None:
    """Sends what is still in the standard output's buffer nowhere, so that the interpreter's last flush does not fail."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)

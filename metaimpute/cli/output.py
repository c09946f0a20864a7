"""How a command speaks: everything spelled out for a terminal, and quietly done when nobody reads any more."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NoReturn

import click

from ..errors import UNREAD
from ..terminal import spelled

if TYPE_CHECKING:
    from rich.console import Console

    from ..reporting.verdict import Verdict
    from ..showing import Shown

QUIET, JSON = "metaimpute.quiet", "metaimpute.json"  # in a context's meta
COLOURS = {"error:": "red", "warning:": "yellow", "next:": "cyan", "stopped:": "yellow"}
GONE = (errno.EPIPE, errno.EIO)  # the reader of a pipe, or the terminal


def echo(message: object, err: bool = False) -> None:
    """Says a line, whatever it holds; on a terminal its first word has the colour of what it means."""
    line, stream = spelled(message), sys.stderr if err else sys.stdout
    word = next((word for word in COLOURS if line.startswith(word)), "")
    if word and has_colours(stream):
        line = click.style(word, fg=COLOURS[word], bold=True) + line[len(word) :]
    click.echo(line, err=err)


def has_colours(stream: Any) -> bool:
    """Whether colours are for a stream: a terminal's, unless it is dumb or NO_COLOR is set."""
    if os.environ.get("NO_COLOR") or os.environ.get("TERM", "dumb") in ("dumb", "unknown"):
        return False
    return stream is not None and bool(stream.isatty())


def quiet() -> bool:
    """Whether the command was called with ``--quiet``."""
    context = click.get_current_context(silent=True)
    return context is not None and bool(context.meta.get(QUIET))


def in_json() -> bool:
    """Whether the command was called with ``--json``."""
    context = click.get_current_context(silent=True)
    return context is not None and bool(context.meta.get(JSON))


def result(message: object) -> None:
    """Says a line of the results, which ``--json`` has in its document."""
    if not in_json():
        echo(message)


def done(message: object) -> None:
    """Says what was done, e.g. which file was written: none with ``--quiet``, and with ``--json`` on the standard error."""
    if not quiet():
        echo(message, err=in_json())


def note(message: object) -> None:
    """Says a line beside the results, on the standard error; none with ``--quiet``."""
    if not quiet():
        echo(message, err=True)


def next_step(*commands: str) -> None:
    """Says which command to type next."""
    note(f"next: {' or '.join(commands)}")


def say_verdict(console: Console, said: Verdict) -> None:
    """Prints what numbers say, the first sentence set off from the others."""
    from ..terminal import cell

    for number, line in enumerate(said.lines):
        console.print(cell(line, "" if number else "bold"))
    if said.next:
        console.print(cell(f"What now: {said.next}."))
    console.print()


def print_json(found: object) -> None:
    """Prints results as one JSON document: strict JSON, in which what is no number is null."""
    click.echo(json.dumps(_strict(found), indent=1, ensure_ascii=True))


def _strict(found: Any) -> Any:
    if isinstance(found, dict):
        return {str(key): _strict(value) for key, value in found.items()}
    if isinstance(found, list | tuple):
        return [_strict(value) for value in found]
    if isinstance(found, float) and not math.isfinite(found):
        return None
    return found if isinstance(found, bool | int | float | str | None) else str(found)


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


@contextlib.contextmanager
def starting() -> Iterator[None]:
    """A word on a terminal at once, gone when the block ends; a dumb one keeps it."""
    stream = sys.stderr
    seen = stream is not None and stream.isatty() and os.environ.get("TERM", "") != "unknown"
    dumb = os.environ.get("TERM", "dumb") == "dumb"
    if seen:
        print("starting ...", end="\n" if dumb else "", file=stream, flush=True)
    try:
        yield
    finally:
        if seen and not dumb:
            print("\r\x1b[K", end="", file=stream, flush=True)


def plain_width() -> int | None:
    """Columns of a table: the terminal's, or what ``COLUMNS`` says; else room enough, since nothing ends a line there."""
    return None if sys.stdout.isatty() or "COLUMNS" in os.environ else 160


def notes() -> Console:
    """The standard error, where progress, warnings and hints go; lines stay whole where it is no terminal."""
    return screen(stderr=True, soft_wrap=not sys.stderr.isatty())


@contextlib.contextmanager
def working() -> Iterator[Shown]:
    """Shows the phases of what is done in the block, but with ``--quiet``."""
    from ..showing import Shown

    with Shown(notes(), hidden=quiet()) as found:
        yield found


def results_unread() -> bool:
    """Whether the standard output is a pipe that nobody reads any more, though nothing has been written to it since."""
    try:
        import select

        poll = select.poll()
        poll.register(sys.stdout.fileno(), 0)
        return any(event & (select.POLLERR | select.POLLNVAL) for _, event in poll.poll(0))
    except (AttributeError, ImportError, OSError, ValueError):  # no file, or none that can be asked here
        return False


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

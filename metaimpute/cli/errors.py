"""A user's mistake is one line and its own exit code (:mod:`metaimpute.errors`); anything else is a bug of ours, and 1."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from typing import Any, NoReturn

import click

from ..errors import INTERNAL, INTERRUPTED, USAGE, UserError
from ..terminal import argument, spelled
from .output import echo, end_unread, prepare_streams, silence, unread


@contextlib.contextmanager
def plain_errors() -> Iterator[None]:
    """A user's mistake ends in one line on stderr and its exit code, never in a traceback.

    SIGTERM and SIGHUP end a command as Ctrl-C does.
    """
    with _interrupted_at_once():
        _import_what_takes_long()
    try:
        with _terminated_like_interrupted():
            yield
            sys.stdout.flush()
    except UserError as error:
        fail(error.exit_code, f"{error.prefix}{error}")
    except click.ClickException:
        raise
    except KeyboardInterrupt as error:
        fail(INTERRUPTED, str(error) or "interrupted")
    except OSError as error:
        if unread(error):
            end_unread()
        where = f"{error.filename}: " if error.filename else ""
        hint = "; a run directory cannot be a file" if isinstance(error, FileExistsError | NotADirectoryError) else ""
        fail(USAGE, f"{where}{error.strerror or error}{hint}")
    except Exception as error:
        if os.environ.get("METAIMPUTE_DEBUG"):
            raise
        first = (str(error).splitlines() or [""])[0]
        fail(INTERNAL, f"internal: {type(error).__name__}: {first} (METAIMPUTE_DEBUG=1 shows where)")


def _import_what_takes_long() -> None:
    """Everything that a run needs, torch first, with what others would print on the way turned off."""
    import warnings

    warnings.filterwarnings("ignore", category=FutureWarning, module="torch")
    warnings.filterwarnings("ignore", message="Image size .* decompression bomb", module="PIL")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from .. import inference  # noqa: F401
    from ..training import session  # noqa: F401


def _stops() -> dict[int, Any]:
    """The signals that ask a process to end, with their handlers, but for those that are ignored, as nohup has it."""
    names = ("SIGINT", "SIGTERM", "SIGHUP")  # SIGHUP: not on Windows
    found = {number: signal.getsignal(number) for name in names if (number := getattr(signal, name, None)) is not None}
    return {number: handler for number, handler in found.items() if handler not in (signal.SIG_IGN, None)}


@contextlib.contextmanager
def _handled(handlers: dict[int, Any]) -> Iterator[None]:
    """Other handlers of signals for a block; outside the main thread, which alone may set them, nothing changes."""
    before = {}
    with contextlib.suppress(ValueError):
        for number, handler in handlers.items():
            before[number] = signal.signal(number, handler)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupted_at_once() -> contextlib.AbstractContextManager[None]:
    """A signal ends the process on the spot; an import that is interrupted in C code may raise anything, or go on."""

    def leave(number: int, frame: Any) -> None:
        os.write(2, b"error: interrupted\n")
        os._exit(INTERRUPTED)

    ours = (signal.default_int_handler, signal.SIG_DFL, _interrupt)
    return _handled({number: leave for number, handler in _stops().items() if handler in ours})


def _interrupt(number: int, frame: Any) -> None:
    raise KeyboardInterrupt


def _terminated_like_interrupted() -> contextlib.AbstractContextManager[None]:
    return _handled({number: _interrupt for number, handler in _stops().items() if handler is signal.SIG_DFL})


def fail(code: int, message: object) -> NoReturn:
    """Ends the command with a line on stderr, if anyone can still read that."""
    try:
        echo(f"error: {message}", err=True)
        sys.stdout.flush()
    except OSError:
        silence()
    sys.exit(code)


class Plain(click.Group):
    """The group of commands: what click itself says of a call is spelled out too, and Ctrl-C ends it as it does a run."""

    def main(self, *arguments: Any, **options: Any) -> Any:
        try:
            return super().main(*arguments, **options)
        except OSError as error:  # of help that cannot be written
            fail(USAGE, error.strerror or error)

    def make_context(self, *arguments: Any, **options: Any) -> click.Context:
        with _spelled():
            return super().make_context(*arguments, **options)

    def invoke(self, context: click.Context) -> Any:
        prepare_streams()
        try:
            with _spelled():
                return super().invoke(context)
        except KeyboardInterrupt:
            fail(INTERRUPTED, "interrupted")


@contextlib.contextmanager
def _spelled() -> Iterator[None]:
    try:
        yield
    except click.exceptions.NoArgsIsHelpError:
        raise  # its message is the help page
    except click.ClickException as error:
        hint = _named_like_an_option() if isinstance(error, click.NoSuchOption) else ""
        error.message = spelled(error.message + hint)  # type: ignore[misc]
        raise


def _named_like_an_option() -> str:
    """What to write for a file whose name begins with a dash, where the call has one."""
    found = [word for word in sys.argv[1:] if word.startswith("-") and os.path.lexists(word)]
    return f"; for the file of that name write {argument(found[0])}" if found else ""

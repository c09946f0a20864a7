"""A user's mistake is one line and an exit code: 2 usage, 3 missing data, 4 diverged, 130 interrupted, 1 a bug of ours."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from typing import Any, NoReturn

import click

from ..terminal import argument, spelled
from .output import echo, end_unread, prepare_streams, silence, unread

INTERNAL, USAGE, MISSING, DIVERGED, INTERRUPTED = 1, 2, 3, 4, 130


@contextlib.contextmanager
def plain_errors() -> Iterator[None]:
    """A user's mistake ends in one line on stderr and its exit code, never in a traceback."""
    with _interrupted_at_once():
        mistakes, missing, diverged, interrupted = _kinds()
    try:
        yield
        sys.stdout.flush()
    except mistakes as error:
        fail(USAGE, error)
    except missing as error:
        fail(MISSING, error)
    except diverged as error:
        fail(DIVERGED, f"training diverged: {error}")
    except click.ClickException:
        raise
    except interrupted as error:
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


def _kinds() -> tuple[tuple[type[BaseException], ...], ...]:
    """Errors that are a user's mistake, missing data, divergence and an interruption."""
    import warnings

    warnings.filterwarnings("ignore", category=FutureWarning, module="torch")
    warnings.filterwarnings("ignore", message="Image size .* decompression bomb", module="PIL")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from ..engine import (
        BadMemoryPolicy,
        CannotDifferentiate,
        EstimatorError,
        HeadNotFound,
        NotRepeatable,
        NotScalar,
        UnsupportedOptimizer,
    )
    from ..engine.registry import UnknownName
    from ..environment import NoDevice
    from ..inference import NotExported
    from ..methods import MethodError
    from ..plugins import PluginError
    from ..problems import ProblemError
    from ..recipes.source import RecipeError
    from ..rundir.checkpoint import NoCheckpoint
    from ..rundir.files import Busy, NotOurs, Unwritable
    from ..tasks import MissingData, TaskError
    from ..training.algorithm import Diverged
    from ..training.session import Interrupted

    mistakes = (
        RecipeError, TaskError, MethodError, ProblemError, EstimatorError, HeadNotFound, UnsupportedOptimizer, UnknownName,
        BadMemoryPolicy, CannotDifferentiate, NotRepeatable, NoCheckpoint,
        NotExported, NotScalar, PluginError, Busy, NotOurs, Unwritable, NoDevice,
    )  # fmt: skip
    return mistakes, (MissingData,), (Diverged,), (Interrupted, KeyboardInterrupt)


@contextlib.contextmanager
def _interrupted_at_once() -> Iterator[None]:
    """Ctrl-C ends the process on the spot; an import that is interrupted in C code may raise anything, or go on."""

    def leave(number: int, frame: Any) -> None:
        os.write(2, b"error: interrupted\n")
        os._exit(INTERRUPTED)

    try:
        ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler
        before = signal.signal(signal.SIGINT, leave) if ours else None
    except ValueError:  # not the main thread
        before = None
    try:
        yield
    finally:
        if before is not None:
            signal.signal(signal.SIGINT, before)


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
        error.message = spelled(error.message + hint)  # type: ignore[misc]  # click calls it final
        raise


def _named_like_an_option() -> str:
    """What to write for a file whose name begins with a dash, where the call has one."""
    found = [word for word in sys.argv[1:] if word.startswith("-") and os.path.lexists(word)]
    return f"; for the file of that name write {argument(found[0])}" if found else ""

"""A user's mistake is one line and its own exit code (:mod:`metaimpute.errors`); anything else is a bug of ours, and 1."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import click

from ..errors import INTERNAL, INTERRUPTED, USAGE, UserError
from ..plugins import installed_commands, package_of
from ..terminal import argument, spelled
from .output import echo, end_unread, prepare_streams, silence, starting, unread

PACKAGE = Path(__file__).parents[1]


@contextlib.contextmanager
def plain_errors(light: bool = False) -> Iterator[None]:
    """A user's mistake ends in one line on stderr and its exit code, never in a traceback.

    SIGTERM and SIGHUP end a command as Ctrl-C does.

    Args:
        light: the block needs none of what takes seconds to import.
    """
    if not light:
        with _interrupted_at_once(), starting():
            _import_what_takes_long()
    try:
        with _terminated_like_interrupted(), _warned_in_a_line():
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
        hint = "; a run directory cannot be a file" if isinstance(error, FileExistsError | NotADirectoryError) else ""
        fail(USAGE, f"{_reason(error)}{hint}")
    except Exception as error:
        _internal(error)


@contextlib.contextmanager
def _warned_in_a_line() -> Iterator[None]:
    """What the package warns of is a line as others are, without the place in its code; warnings of others are Python's."""
    import warnings

    before = warnings.showwarning

    def show(message: Any, category: Any, filename: str, *rest: Any, **more: Any) -> None:
        if Path(filename).is_relative_to(PACKAGE) and issubclass(category, UserWarning):
            echo(f"warning: {message}", err=True)
        else:
            before(message, category, filename, *rest, **more)

    warnings.showwarning = show
    try:
        yield
    finally:
        warnings.showwarning = before


def _internal(error: Exception, of: str = "") -> NoReturn:
    if os.environ.get("METAIMPUTE_DEBUG"):
        raise error
    first = (str(error).splitlines() or [""])[0]
    fail(INTERNAL, f"internal: {of}{type(error).__name__}: {first} (METAIMPUTE_DEBUG=1 shows where)")


def _reason(error: OSError) -> str:
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}{error.strerror or error}"


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
        os.write(2, (b"\n" if os.isatty(2) else b"") + b"error: interrupted\n")
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
    """The group of commands: what click itself says of a call is spelled out too, and Ctrl-C ends it as it does a run.

    Beside its own it has those of installed packages (:mod:`metaimpute.plugins`), and what a module that ``--import`` names has
    added to it.
    """

    def add_command(self, cmd: click.Command, name: str | None = None) -> None:
        """As click has it, but for a name that another command has.

        Raises:
            ValueError: for such a name.
        """
        name = name or cmd.name
        if name in self.commands:
            raise ValueError(f"command '{name}' is there already")
        super().add_command(cmd, name)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        found = super().get_command(context, name)
        if found is not None or (point := installed_commands().get(name)) is None:
            return found
        try:
            command = point.load()
        except Exception as error:
            fail(USAGE, f"command '{name}' of package {package_of(point)}: {type(error).__name__}: {error}")
        if not isinstance(command, click.Command):
            fail(USAGE, f"command '{name}' of package {package_of(point)}: {point.value} is no command of click")
        return command

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        super().format_commands(context, formatter)
        others = [(name, f"from {package_of(point)}") for name, point in installed_commands().items()]
        if rows := [row for row in others if row[0] not in self.commands]:
            with formatter.section("Commands of plugins"):
                formatter.write_dl(rows)

    def main(self, *arguments: Any, **options: Any) -> Any:
        try:
            return super().main(*arguments, **options)
        except OSError as error:  # of help that cannot be written, or of a plugin's command
            fail(USAGE, _reason(error))

    def make_context(self, *arguments: Any, **options: Any) -> click.Context:
        with _spelled():
            return super().make_context(*arguments, **options)

    def invoke(self, context: click.Context) -> Any:
        prepare_streams()
        try:
            with _spelled():
                return super().invoke(context)
        except UserError as error:  # of a plugin's command
            fail(error.exit_code, f"{error.prefix}{error}")
        except KeyboardInterrupt:
            fail(INTERRUPTED, "interrupted")
        except (click.ClickException, click.exceptions.Exit, click.Abort, OSError):
            raise
        except Exception as error:
            _internal(error, self._whose(context))

    def _whose(self, context: click.Context) -> str:
        """What names a command's plugin before a fault in it; nothing for a command of the package."""
        name = context.invoked_subcommand or ""
        command = self.commands.get(name)
        if command is None and (point := installed_commands().get(name)) is not None:
            return f"command '{name}' of package {package_of(point)}: "
        module = getattr(getattr(command, "callback", None), "__module__", None) or ""
        return "" if module.startswith("metaimpute.") else f"command '{name}' of {module or 'a plugin'}: "


@contextlib.contextmanager
def _spelled() -> Iterator[None]:
    try:
        yield
    except click.exceptions.NoArgsIsHelpError:
        raise  # its message is the help page
    except click.ClickException as error:
        hint = _named_like_an_option() if isinstance(error, click.NoSuchOption) else ""
        error.message = spelled(error.message.removesuffix(".") + hint)  # type: ignore[misc]  # click calls it final
        error.show = functools.partial(_show, error)  # type: ignore[method-assign]
        raise


def _show(error: click.ClickException, file: object = None) -> None:
    """What click says of a call, as one line in the voice of all others: no usage before it, the way to help behind it."""
    said = " ".join(error.format_message().split()).removesuffix(".")
    context = getattr(error, "ctx", None)
    way = f" ({context.command_path} --help)" if context is not None else ""
    echo(f"error: {said[:1].lower()}{said[1:]}{way}", err=True)


def _named_like_an_option() -> str:
    """What to write for a file whose name begins with a dash, where the call has one."""
    found = [word for word in sys.argv[1:] if word.startswith("-") and os.path.lexists(word)]
    return f"; for the file of that name write {argument(found[0])}" if found else ""

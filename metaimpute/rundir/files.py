"""Files that are whole or not there: written beside their place, then moved into it."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import UserError
from .layout import CHECKPOINTS, LOCK, is_replaced


class Unwritable(UserError, RuntimeError):
    """A run directory that cannot be written to: full, read-only, not permitted. Ends a command with exit code 2."""


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A name to write to; when the block ends well the file takes the place of ``path``, otherwise nothing is left of it.

    Readers, and whoever comes after a kill, see the old file or the new one.

    Raises:
        NotOurs: where something else than a file stands at ``path``.
        OSError: naming the file, whatever error a library has made of the operating system's.
    """
    refuse_irregular(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        partial.unlink(missing_ok=True)  # were it a link, a library would write to where it leads
        yield partial
        with partial.open("rb") as stream:
            os.fsync(stream.fileno())
        partial.chmod(0o666 & ~_umask())  # some libraries write for their owner alone
        partial.replace(path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            partial.unlink()
        beneath = _of_the_system(error)
        if beneath is not None:
            raise OSError(beneath.errno, beneath.strerror or str(beneath), str(path)) from None
        raise


def _of_the_system(error: BaseException | None) -> OSError | None:
    """The operating system's error that this one is, or was raised while handling; torch and safetensors wrap it."""
    while error is not None:
        if isinstance(error, OSError):
            return error
        if type(error).__name__ == "SafetensorError" and "os error" in str(error):
            number = str(error).rpartition("os error ")[2].rstrip(")")
            return OSError(int(number), os.strerror(int(number))) if number.isdigit() else OSError(str(error))
        error = error.__context__
    return None


def write_text(path: Path, text: str) -> None:
    """Writes a file in UTF-8; bytes of a file's name that are none are spelled out."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_json(path: Path, value: Any) -> None:
    """Writes atomically: readers see the old file or the new one."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def remove_leftovers(folder: Path) -> None:
    """Drops what a killed process was writing, and no file that is not a run's own."""
    for partial in [*folder.glob("*.part"), *(folder / CHECKPOINTS).glob("*.part")]:
        name, _, process = partial.name.removesuffix(".part").rpartition(".")
        if process.isdigit() and is_replaced(name):
            with contextlib.suppress(OSError):
                partial.unlink()


HOLDER = re.compile(r"(process \d+)?")


class Busy(UserError, RuntimeError):
    """A run directory that another process is training in. Ends a command with exit code 2."""


class NotOurs(UserError, RuntimeError):
    """Something else stands where a run keeps a file that it empties or deletes. Ends a command with exit code 2."""


@contextlib.contextmanager
def locked(folder: Path, doing: str = "is training") -> Iterator[None]:
    """The folder for oneself: no other process can train in it meanwhile. The lock ends with the process, however it ends.

    Args:
        doing: what the other process does, for the message.

    Raises:
        Busy: naming the process that has it. NotOurs: when ``run.lock`` or ``checkpoints`` is a link or not a run's.
    """
    folder.mkdir(parents=True, exist_ok=True)
    refuse_link(folder / CHECKPOINTS)
    try:
        import fcntl
    except ImportError:  # no such locks on Windows
        yield
        return
    with os.fdopen(_lock_file(folder / LOCK), "r+b") as stream:
        holder = stream.read(64).decode("utf-8", "replace").strip()
        if not HOLDER.fullmatch(holder):
            raise NotOurs(f"{folder / LOCK} is not the lock of a run; move it away")
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Busy(f"{folder}: another process {doing} here{f' ({holder})' if holder else ''}") from None
        stream.seek(0)
        stream.truncate()
        stream.write(f"process {os.getpid()}".encode())
        stream.flush()
        yield


def _lock_file(path: Path) -> int:
    """A file descriptor of the lock, made if need be; never of what a link leads to, nor of a pipe."""
    try:
        number = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise NotOurs(linked(path)) from None
    if not stat.S_ISREG(os.fstat(number).st_mode):
        os.close(number)
        raise NotOurs(f"{path} is no regular file; move it away")
    return number


def refuse_link(path: Path) -> None:
    """Raises:
    NotOurs: when a path that files are deleted from is a symbolic link."""
    if path.is_symlink():
        raise NotOurs(linked(path))


def refuse_irregular(path: Path) -> None:
    """Raises:
    NotOurs: when a path that a file is to take the place of is a link, a folder, a pipe or a device."""
    if path.is_symlink():
        raise NotOurs(
            f"{path} is a symbolic link, which a file is not written over or through; name another, or move it away"
        )
    if path.is_dir():
        raise NotOurs(f"{path} is a folder; name a file")
    if path.exists() and not path.is_file():
        raise NotOurs(f"{path} is no regular file; name another, or move it away")


def refuse_input(path: Path, *read: Path | None) -> None:
    """Raises:
    NotOurs: when a file that is to be written is one of those that are read."""
    for other in read:
        if other is not None and path.exists() and other.exists() and path.samefile(other):
            raise NotOurs(f"{path} is read here, and would be lost; choose another --out")


def linked(path: Path) -> str:
    return f"{path} is a symbolic link, which a run does not follow: it would write where that leads; move it away"

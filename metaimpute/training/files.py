"""Files that are whole or not there: written beside their place, then moved into it."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path


class Unwritable(RuntimeError):
    """A run directory that cannot be written to: full, read-only, not permitted. Ends a command with exit code 2."""


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A name to write to; when the block ends well the file takes the place of ``path``, otherwise nothing is left of it.

    Readers, and whoever comes after a kill, see the old file or the new one.

    Raises:
        OSError: naming the file, whatever error a library has made of the operating system's.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
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
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


LEFTOVER = re.compile(
    r"(begun|result|diverged)\.json|(metrics|labels)\.jsonl|recipe\.resolved\.yaml|model\.safetensors|step-\d+\.pt"
)


def remove_leftovers(folder: Path) -> None:
    """Drops what a killed process was writing, and no file that is not a run's own."""
    for partial in [*folder.glob("*.part"), *(folder / "checkpoints").glob("*.part")]:
        name, _, process = partial.name.removesuffix(".part").rpartition(".")
        if process.isdigit() and LEFTOVER.fullmatch(name):
            with contextlib.suppress(FileNotFoundError):
                partial.unlink()


class Busy(RuntimeError):
    """A run directory that another process is training in. Ends a command with exit code 2."""


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """The folder for oneself: no other process can train in it meanwhile. The lock ends with the process, however it ends.

    Raises:
        Busy: naming the process that has it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        import fcntl
    except ImportError:  # no such locks on Windows
        yield
        return
    with (folder / "run.lock").open("a+") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            stream.seek(0)
            process = stream.read().strip()
            raise Busy(f"{folder}: another process is training here{f' ({process})' if process else ''}") from None
        stream.truncate(0)
        stream.write(f"process {os.getpid()}")
        stream.flush()
        yield

"""Files of a run folder read back: whole and of the shape that a run writes, or refused in a line that names them.

A folder may come from elsewhere, and a file in it may be cut short, edited, or another program's.
"""

from __future__ import annotations

import json
import math
import os
import stat
from pathlib import Path
from typing import Any

from ..recipes.source import RecipeError, one_line


class DamagedFile(RecipeError):
    """A file of a run folder that no run has written as it is. Ends a command with exit code 2."""

    def __init__(self, path: Path, reason: str, line: int | None = None) -> None:
        super().__init__(f"{path}{'' if line is None else f':{line}'} is damaged: {one_line(reason, 200)}")


def read_bytes(path: Path) -> bytes:
    """Content of a regular file. A pipe or a device, which might have no end, is never read.

    Raises:
        DamagedFile: for anything but a regular file. OSError: when there is none, or it may not be read.
    """
    number = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    if not stat.S_ISREG(os.fstat(number).st_mode):
        os.close(number)
        raise DamagedFile(path, "it is no regular file")
    with os.fdopen(number, "rb") as stream:
        return stream.read()


def read_json(path: Path) -> Any:
    """What a JSON file holds.

    Raises:
        DamagedFile: when it is none. OSError: when it cannot be read.
    """
    return _json(path, read_bytes(path), None)


def _json(path: Path, content: bytes, line: int | None) -> Any:
    try:
        return json.loads(content.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise DamagedFile(path, f"byte {error.start + 1} is not UTF-8", line) from None
    except (ValueError, RecursionError) as error:
        raise DamagedFile(path, f"no JSON ({error})", line) from None


# lines of records --------------------------------------------------------------------------------------------------------


def read_metrics(path: Path) -> list[dict[str, float]]:
    """The lines of a ``metrics.jsonl``, in order.

    Raises:
        DamagedFile: naming the first that is no line of metrics. OSError: when it cannot be read.
    """
    return [_metrics(path, line, number) for number, line in enumerate(_lines(read_bytes(path)), 1)]


def _metrics(path: Path, content: bytes, number: int) -> dict[str, float]:
    found = _json(path, content, number)
    if not isinstance(found, dict) or not _is_number(found.get("step")) or not math.isfinite(found["step"]):
        raise DamagedFile(path, "no step of training", number)
    for name, value in found.items():
        if not _is_number(value):
            raise DamagedFile(path, f"{name} is no number", number)
    return found


def _is_number(value: Any) -> bool:
    return isinstance(value, float) or (isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63)


def _lines(content: bytes) -> list[bytes]:
    return content.removesuffix(b"\n").split(b"\n") if content else []


def lines_up_to(path: Path, step: int) -> tuple[list[str], int]:
    """Lines of a file of records that were written up to a step, and how many are no such record.

    A last line that a kill has cut short is no damage and does not count.

    Raises:
        DamagedFile: for anything but a regular file. OSError: when it cannot be read.
    """
    content = read_bytes(path)
    lines, kept, bad = _lines(content), [], 0
    for number, line in enumerate(lines, 1):
        try:
            found = _json(path, line, number)
            if not isinstance(found, dict) or not _is_number(found.get("step")):
                raise DamagedFile(path, "no step of training", number)
        except DamagedFile:
            bad += number < len(lines) or content.endswith(b"\n")
            continue
        if found["step"] <= step:
            kept.append(line.decode("utf-8"))
    return kept, bad

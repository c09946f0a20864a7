"""Text files of the user's as they come: UTF-8, or UTF-16 and UTF-32 by their mark; anything else is refused by line."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from .base import TaskError

MARKS = (  # UTF-32's mark begins with UTF-16's
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
ARCHIVE = b"PK\x03\x04"
LOOKED_AT = 4096


def encoding_of(path: Path) -> str:
    """The encoding that a file's mark names; UTF-8 where it has none.

    Raises:
        TaskError: for a workbook or another archive, and for NUL bytes, which no text in UTF-8 holds.
    """
    with path.open("rb") as file:
        head = file.read(LOOKED_AT)
    if head.startswith(ARCHIVE):
        raise TaskError(f"{path} is an Excel workbook or another archive, no text; save the table as CSV in UTF-8")
    marked = next((name for mark, name in MARKS if head.startswith(mark)), None)
    if marked is None and b"\0" in head:
        raise TaskError(f"{path} holds NUL bytes: UTF-16 without its mark, or no text at all; save it in UTF-8")
    return marked or "utf-8"


@contextmanager
def opened(path: Path, newline: str | None = "") -> Iterator[TextIO]:
    """A text file to read, decoded.

    Args:
        newline: as of ``open``; the ends of lines stay as they are unless it is None.

    Raises:
        TaskError: naming the line and byte where the file is in another encoding. OSError: when it cannot be opened.
    """
    encoding = encoding_of(path)
    try:
        with path.open(encoding=encoding, newline=newline) as file:
            yield file
    except UnicodeDecodeError:
        raise TaskError(_undecodable(path, encoding)) from None


def _undecodable(path: Path, encoding: str) -> str:
    if not encoding.startswith("utf-8"):
        return f"{path} has the mark of {encoding.upper()} and cannot be read so; save it again in UTF-8"
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                line.decode()
            except UnicodeDecodeError as error:
                byte = line[error.start : error.start + 1]
                meant = byte.decode("cp1252", "replace")
                shown = f", which is '{meant}' in Windows' cp1252" if meant.isprintable() and meant != "\ufffd" else ""
                return (
                    f"{path}, line {number}: the byte 0x{byte.hex()}{shown}, is no UTF-8; save the file in UTF-8, e.g. with "
                    f"iconv -f cp1252 -t utf-8"
                )
    return f"{path} is no text in UTF-8"

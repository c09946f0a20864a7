"""What a user, or a file from elsewhere, has written, on its way into a terminal or into a command that is to be copied.

Everything that a command shows goes through :func:`spelled` (or :func:`cell`, in tables), so that a name cannot move the
cursor, change colours, hide its own letters or be taken for markup.
"""

from __future__ import annotations

import shlex
import unicodedata
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.text import Text

JOINERS = "\u200c\u200d"  # part of words of several scripts, and of emoji; they move nothing


def spelled(text: object) -> str:
    """One line of text with everything that is not seen as itself spelled out: a line feed as ``\\n``, an escape as ``\\x1b``.

    That is control characters, line and paragraph separators, changes of the writing direction, and the bytes of a file's
    name that are not UTF-8. Twice does what once does.
    """
    return "".join(letter if _shown(letter) else _escape(letter) for letter in str(text))


def _shown(letter: str) -> bool:
    return letter.isprintable() or letter in JOINERS or unicodedata.category(letter) == "Zs"


def _escape(letter: str) -> str:
    if "\udc80" <= letter <= "\udcff":  # a byte that os.fsdecode could not read
        return f"\\x{ord(letter) - 0xDC00:02x}"
    return letter.encode("unicode_escape").decode()


def is_utf_8(path: str | Path) -> bool:
    """Whether a path is text, and not bytes that no encoding was found for."""
    return not any("\ud800" <= letter <= "\udfff" for letter in str(path))


def cell(text: object, style: str = "") -> Text:
    """The same for a cell, a title or a line that rich prints: markup in it stays the letters that it is."""
    from rich.text import Text

    return Text(spelled(text), style)


def argument(path: str | Path) -> str:
    """A path as one word of a command line: quoted where a shell needs it, and never an option."""
    text = str(path)
    text = f"./{text}" if text.startswith("-") else text
    if spelled(text) == text:
        return shlex.quote(text)
    inside = spelled(text.replace("\\", "\\\\").replace("'", "\\'"))
    return f"$'{inside}'"

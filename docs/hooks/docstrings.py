"""Docstrings of this package as mkdocstrings reads them.

The code's docstrings put several short arguments on one line (``file: a path. test: another.``) and use Sphinx's roles; here
each argument gets its own line and a role becomes plain code.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

ROLE = re.compile(r":(?:func|meth|class|attr|mod):`~?([^`]+)`")
ERROR = re.compile(r"[A-Z]\w*[a-z]\w*")
SEVERAL = re.compile(r"^( *)(\w+), (\w+(?:, \w+)*): ", re.MULTILINE)  # names of attributes that share a description
SECTION = re.compile(r"^( *)(Args|Attributes|Raises):$")


class OneArgumentPerLine(griffe.Extension):
    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = one_per_line(ROLE.sub(r"`\1`", obj.docstring.value), names_of(obj))


def names_of(obj: griffe.Object) -> set[str]:
    found = set(obj.members)
    for source in (obj, obj.members.get("__init__")):
        found |= {parameter.name for parameter in getattr(source, "parameters", ()) or ()}
    return found


def one_per_line(text: str, names: set[str]) -> str:
    """``text`` with a new line before each of ``names`` that begins an entry, and each error of ``Raises``."""
    lines: list[str] = []
    section: int | None = None  # indentation of the section's head
    kind = ""
    for line in text.splitlines():
        head = SECTION.match(line)
        if head:
            section, kind = len(head[1]), head[2]
        elif section is not None and line.strip() and len(line) - len(line.lstrip()) <= section:
            section = None
        lines.append(line if head or section is None else divided(line, names, kind, " " * (section + 4)))
    return "\n".join(lines)


def divided(line: str, names: set[str], kind: str, indent: str) -> str:
    """Errors begin an entry under ``Raises`` alone: elsewhere ``None:`` and ``Default:`` are words of a description."""

    def entry(match: re.Match[str]) -> str:
        known = all(ERROR.fullmatch(word) if kind == "Raises" else word in names for word in match[1].split(", "))
        return f"\n{indent}{match[1]}:" if known else match[0]

    found = re.sub(r"(?<=[.;?]) (\w+(?:, \w+)*):(?= )", entry, line)
    return SEVERAL.sub(shared, found) if kind == "Attributes" else found


def shared(match: re.Match[str]) -> str:
    """``a, b: text`` as ``a: and b: text``: a table of attributes has one name in a row."""
    others = ", ".join(f"`{name}`" for name in match[3].split(", "))
    return f"{match[1]}{match[2]}: And {others}: "

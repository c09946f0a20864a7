"""Modules of ``--import`` that a node needs: sent along where they are the user's own files, imported there by the same names."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path


def files_of(modules: Iterable[str]) -> dict[str, bytes]:
    """Files of the modules that are the user's own, in the current folder or given by a path, by their names below it."""
    found, here = dict[str, bytes](), Path.cwd()
    for name in modules:
        if name.endswith(".py"):
            found[Path(name).name] = Path(name).read_bytes()
            continue
        top = sys.modules.get(name.partition(".")[0])
        file = Path(getattr(top, "__file__", None) or "").absolute()
        if top is None or not file.is_relative_to(here):
            continue
        paths = file.parent.rglob("*.py") if file.name == "__init__.py" else [file]
        found |= {path.relative_to(here).as_posix(): path.read_bytes() for path in paths}
    return found


def names_there(modules: Iterable[str]) -> list[str]:
    """What they are called in a call's folder on a node."""
    return [Path(name).name if name.endswith(".py") else name for name in modules]

"""Modules of ``--import`` that a node needs: sent along where they are the user's own files, imported there by the same names."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from ..plugins import PluginError


def files_of(modules: Mapping[str, Path]) -> dict[str, bytes]:
    """Files of the modules that are the user's own, below the folder where they were named or given by a path, by their names.

    Raises:
        PluginError: for one that has been taken away since it was imported.
    """
    found = dict[str, bytes]()
    for name, folder in modules.items():
        if name.endswith(".py"):
            found[Path(name).name] = _read(name, folder / name)
            continue
        top = sys.modules.get(name.partition(".")[0])
        file = Path(getattr(top, "__file__", None) or "").absolute()
        if top is None or not file.is_relative_to(folder):
            continue
        paths = file.parent.rglob("*.py") if file.name == "__init__.py" else [file]
        found |= {path.relative_to(folder).as_posix(): _read(name, path) for path in paths}
    return found


def _read(name: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise PluginError(f"--import {name}: a node needs its file, and {path}: {error.strerror}") from None


def names_there(modules: Iterable[str]) -> list[str]:
    """What they are called in a call's folder on a node."""
    return [Path(name).name if name.endswith(".py") else name for name in modules]

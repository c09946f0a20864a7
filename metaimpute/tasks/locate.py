"""Where data is looked for: METAIMPUTE_DATA, ./data, then the user's cache."""

from __future__ import annotations

import os
from pathlib import Path


def expanded(name: str) -> Path:
    """A path with ``~`` and ``~user`` for home folders; a file's own name where it begins so and nobody is called that.

    Raises:
        RuntimeError: for a path below the home folder of nobody.
    """
    try:
        return Path(name).expanduser()
    except RuntimeError:
        if len(Path(name).parts) > 1:
            raise
        return Path(name)


def cache_folder() -> Path:
    """Folder for fetched data: ``METAIMPUTE_CACHE``, else ``metaimpute`` in the user's cache."""
    explicit = os.environ.get("METAIMPUTE_CACHE")
    if explicit:
        return Path(explicit).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "metaimpute"


def data_folders() -> list[Path]:
    """Folders searched for data, in order."""
    explicit = os.environ.get("METAIMPUTE_DATA")
    folders = [Path(explicit).expanduser()] if explicit else []
    return [*folders, Path("data"), cache_folder()]


def find(name: str, marker: str = "") -> Path | None:
    """The first ``folder/name`` that contains ``marker``, or None."""
    for folder in data_folders():
        if (folder / name / marker).exists():
            return folder / name
    return None


def locate_file(name: str) -> Path | None:
    """A file at its own path, or in a folder where data is looked for; None when it is in neither."""
    given = expanded(name)
    places = [given] if given.is_absolute() else [given, *(folder / name for folder in data_folders())]
    return next((path for path in places if path.is_file()), None)

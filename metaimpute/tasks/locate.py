"""Where data is looked for: METAIMPUTE_DATA, ./data, then the user's cache; of a run also where it was begun."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Search:
    """Folders that relative names are looked for in, beside the current one.

    Attributes:
        first: those that come before it. last: those that come after it. nothing: whether no data is to be found at all.
    """

    first: tuple[Path, ...] = ()
    last: tuple[Path, ...] = ()
    nothing: bool = False

    @property
    def folders(self) -> list[Path]:
        return [] if self.nothing else [*self.first, Path(), *self.last]


USUAL = Search()
_search: ContextVar[Search] = ContextVar("_search", default=USUAL)


@contextmanager
def looking(first: Sequence[Path] = (), last: Sequence[Path] = (), *, nothing: bool = False) -> Iterator[None]:
    """While the block lasts, relative names are looked for in other folders too, or nowhere."""
    token = _search.set(Search(tuple(first), tuple(last), nothing))
    try:
        yield
    finally:
        _search.reset(token)


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
    search = _search.get()
    if search.nothing:
        return []
    explicit = os.environ.get("METAIMPUTE_DATA")
    folders = [Path(explicit).expanduser()] if explicit else []
    return [*folders, *(folder / "data" for folder in search.folders), cache_folder()]


def places_of(name: str) -> list[Path]:
    """Paths that a name may stand for: its own, from the folders that relative names start in, then where data is kept."""
    given, search = expanded(name), _search.get()
    if search.nothing:
        return []
    if given.is_absolute():
        return [given]
    return [*(folder / given for folder in search.folders), *(folder / name for folder in data_folders())]


def find(name: str, marker: str = "") -> Path | None:
    """The first ``folder/name`` that contains ``marker``, or None."""
    for folder in data_folders():
        if (folder / name / marker).exists():
            return folder / name
    return None


def locate_folder(name: str, marker: str) -> Path | None:
    """A folder that holds the folder ``marker``, at its own path or where data is looked for; None when it is in neither."""
    return next((path for path in places_of(name) if (path / marker).is_dir()), None)


def locate_file(name: str) -> Path | None:
    """A file at its own path, or in a folder where data is looked for; None when it is in neither."""
    return next((path for path in places_of(name) if path.is_file()), None)

"""Images of a folder by what a table may call them: paths inside the folder, bare names, names without a suffix."""

from __future__ import annotations

import os
import posixpath
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..engine.registry import nearest
from .image_listing import name_in, readable
from .quoting import quoted, safe

ASKED_OF = 20_000  # names among which the nearest one is looked for

Places = dict[str, list[int]]


class ImageNames:
    """Finds images by what they are called.

    Args:
        folder: that the images lie in. paths: of the images. table: a file that names them; where it lies in the folder, paths
            may start beside it.

    Attributes:
        names: of the images, their paths inside the folder.
    """

    def __init__(self, folder: Path, paths: Sequence[Path], table: Path) -> None:
        self.folder, self.names = folder, [name_in(folder, path) for path in paths]
        self._spellings = {_spelled(os.path.normpath(folder.absolute())), _spelled(str(folder.resolve()))}
        within = os.path.relpath(table.absolute().parent, folder.absolute())
        self._within = "" if within.startswith(os.pardir) or within == os.curdir else _spelled(within)
        whole, bare = self.names, [posixpath.basename(_slashed(name)) for name in self.names]
        self._by_path = _places(whole), _places([_without_suffix(name) for name in whole])
        self._by_name = _places(bare), _places([_without_suffix(name) for name in bare])

    def find(self, cell: str) -> list[int]:
        """Numbers of the images that a cell names: none, one, or several where a bare name or one without suffix is theirs."""
        written = list(dict.fromkeys(posixpath.normpath(_key(words)) for words in (cell, _slashed(cell))))
        paths = [path for words in written for path in self._inside(words)]
        bare = [path for path in written if "/" not in path]
        for known, asked in ((self._by_path, paths), (self._by_name, bare)):
            for places in known:
                for path in asked:
                    if path in places:
                        beside = places.get(self._beside(path), []) if path in written and asked is paths else []
                        return list(dict.fromkeys([*places[path], *beside]))
        return []

    def _beside(self, path: str) -> str:
        """A path that starts beside the table, inside the folder."""
        return posixpath.normpath(f"{self._within}/{path}") if self._within else path

    def _inside(self, path: str) -> Iterator[str]:
        """Paths inside the folder that a path may stand for, the likeliest first."""
        for spelling in self._spellings:
            if path.startswith(f"{spelling}/"):
                yield path[len(spelling) + 1 :]
        yield path
        if self._within:
            yield self._beside(path)
        parts, called = path.split("/"), {posixpath.basename(spelling) for spelling in self._spellings}
        yield from ("/".join(parts[at + 1 :]) for at, part in enumerate(parts[:-1]) if part in called)

    def like(self, cell: str) -> str:
        """What is most like a cell that names no image, or what images are called."""
        if cell and _is_there(self.folder, cell):
            return f"'{safe(cell)}' is there, and is none of the images: hidden, linked, or of another kind"
        known = self.names[:ASKED_OF]
        close = nearest(_slashed(cell), known)
        return f"did you mean '{safe(close)}'?" if close else f"images are called {quoted(self.names)}"


def _is_there(folder: Path, cell: str) -> bool:
    path = posixpath.normpath(_slashed(cell))
    if path == "." or path.startswith(("/", "../")):
        return False
    try:
        return (folder / path).exists()
    except (OSError, ValueError):  # a name that no file can have
        return False


def _places(names: Sequence[str]) -> Places:
    found: Places = {}
    for place, name in enumerate(names):
        found.setdefault(_key(name), []).append(place)
    return found


def _key(name: str) -> str:
    """A name as it is compared: accents are one sign however they are written, and blanks around it are none."""
    return unicodedata.normalize("NFC", name).strip()


def _slashed(path: str) -> str:
    return path.replace("\\", "/")


def _spelled(path: str) -> str:
    """A path of this machine as a table has it."""
    return _key(readable(path).replace(os.sep, "/"))


def _without_suffix(name: str) -> str:
    return posixpath.splitext(name)[0]

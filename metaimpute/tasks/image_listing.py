"""Image files in a folder: which are taken, and what is left out, counted by kind, so that it can be said."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from PIL import features

SUFFIXES = frozenset((".jpeg", ".jpg", ".jpe", ".jfif", ".png", ".ppm", ".bmp", ".webp", ".tif", ".tiff", ".gif")) | (
    {".avif"} if features.check("avif") else set()
)
HIDDEN = frozenset(("__macosx", "@eadir"))  # thumbnails and shadows that archives and network drives keep beside images
NOISE = frozenset(
    (".ds_store", "thumbs.db", "desktop.ini", ".gitkeep", ".gitignore")
)  # of a desktop; nobody misses them
MOST_KINDS = 6


@dataclass
class LeftOut:
    """What of a folder is no image of the data, counted by kind."""

    counts: Counter[str] = field(default_factory=Counter)

    def add(self, kind: str, count: int = 1) -> None:
        if count:
            self.counts[kind] += count

    def forget(self, path: Path, folder: Path) -> None:
        """Takes back a file that is no image and is read otherwise, where it lies in the folder."""
        place = os.path.relpath(path.absolute(), folder.absolute())
        kind = path.suffix.lower()
        if not place.startswith((os.pardir, ".")) and self.counts[kind]:
            self.counts[kind] -= 1
        self.counts += Counter()  # without those that are none

    def said(self, what: str) -> tuple[str, ...]:
        """A line about it, or none where nothing is left out."""
        kinds = [f"{count:,} {kind}" for kind, count in self.counts.most_common()]
        more = f" and {len(kinds) - MOST_KINDS} other kinds" if len(kinds) > MOST_KINDS else ""
        return (f"left out of {what}: {', '.join(kinds[:MOST_KINDS])}{more}",) if kinds else ()


def images_in(folder: Path, left: LeftOut | None = None) -> list[Path]:
    """Files in a folder, at any depth, that are images by their suffix, sorted.

    Hidden files and folders, linked folders and whatever is no regular file are left out.

    Args:
        left: is told what is left out.
    """
    left, found, waiting = LeftOut() if left is None else left, [], [folder]
    while waiting:
        place = waiting.pop()
        try:
            entries = list(os.scandir(place))
        except FileNotFoundError:
            continue
        except OSError:
            left.add("folders that cannot be listed")
            continue
        for entry in entries:
            kind = _why_not(entry)
            if kind is None:
                found.append(Path(entry.path))
            elif kind == "folder":
                waiting.append(Path(entry.path))
            elif entry.name.lower() not in NOISE:
                left.add(kind)
    return sorted(found)


def _why_not(entry: os.DirEntry[str]) -> str | None:
    """The kind of thing that an entry is where it is no image; None where it is."""
    if entry.name.startswith(".") or entry.name.lower() in HIDDEN:
        return "hidden"
    if entry.is_dir():
        return "linked folders" if entry.is_symlink() else "folder"
    if not entry.is_file():  # a pipe would be waited at for ever
        return "links that lead nowhere" if entry.is_symlink() and not Path(entry.path).exists() else "pipes or devices"
    suffix = Path(entry.name).suffix.lower()
    return None if suffix in SUFFIXES else suffix or "without a suffix"


def class_folders(folder: Path, left: LeftOut | None = None) -> dict[str, Path]:
    """The class folders in a folder, by name and sorted: a class's number is its place here.

    Args:
        left: is told of images beside the class folders, which have no class.
    """
    found: dict[str, Path] = {}
    for entry in os.scandir(folder):
        hidden = entry.name.startswith(".") or entry.name.lower() in HIDDEN
        if entry.is_dir() and not hidden:
            found[readable(entry.name)] = Path(entry.path)
        elif left is not None and entry.name.lower() not in NOISE:
            left.add("hidden" if hidden else f"in {readable(folder.name)}/ but in no class")
    return dict(sorted(found.items()))


def classes_of(folder: Path) -> list[str]:
    """Names of the class folders in a folder, sorted."""
    return list(class_folders(folder))


def name_in(folder: Path, path: Path) -> str:
    """How a file is named for the user: its path relative to a folder."""
    return readable(str(path.relative_to(folder)))


def readable(name: str) -> str:
    """A file's name as text that every file of labels can hold: bytes that are not UTF-8 are spelled out, ``\\xff``."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")

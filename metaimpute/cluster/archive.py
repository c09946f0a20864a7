"""A folder as bytes, and back again in one move: what a run's folder travels as between machines without a common disk."""

from __future__ import annotations

import io
import os
import shutil
import tarfile
from pathlib import Path


def pack(folder: Path) -> bytes:
    """The regular files of a folder and of those in it, as a tar archive; links and what is half written stay behind."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file() and not path.is_symlink() and path.suffix != ".part":
                archive.add(path, path.relative_to(folder).as_posix(), recursive=False)
    return stream.getvalue()


def unpack(content: bytes, folder: Path) -> None:
    """Puts the files in the place of ``folder``: whoever looks there meets the old one, or none, or the new one, never a part.

    Raises:
        ValueError: for a name that leads out of the folder.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh, old = (folder.with_name(f".{folder.name}.{os.getpid()}.{kind}") for kind in ("new", "old"))
    for left in (fresh, old):
        shutil.rmtree(left, ignore_errors=True)
    try:
        fresh.mkdir()
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            for member in archive:
                _put(archive, member, fresh)
        if folder.exists():
            folder.replace(old)
        fresh.replace(folder)
    finally:
        for left in (fresh, old):
            shutil.rmtree(left, ignore_errors=True)


def _put(archive: tarfile.TarFile, member: tarfile.TarInfo, folder: Path) -> None:
    path = Path(member.name)
    stream = archive.extractfile(member) if member.isfile() else None
    if stream is None or path.is_absolute() or ".." in path.parts:
        raise ValueError(f"'{member.name}' is no file below the folder")
    target = folder / path
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("wb") as written:
        shutil.copyfileobj(stream, written)

"""Byte strings that are costly to make, kept in the user's cache (``METAIMPUTE_CACHE``): an SQLite file for each kind of them.

Several processes may read and write one file. A damaged file is begun anew; where a file can be neither read nor written
nothing is kept, and the caller may say so.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

KEPT_BYTES = 4 * 10**9  # of all files of a folder together; the one used longest ago goes first
ASKED_TOGETHER = 500


def digest(*content: bytes) -> bytes:
    """16 bytes that stand for a content."""
    found = hashlib.blake2b(digest_size=16)
    for part in content:
        found.update(len(part).to_bytes(8, "little"))
        found.update(part)
    return found.digest()


class Kept:
    """Byte strings by key, in one file of the table ``features``.

    Args:
        path: of the file. renewed: whether a value takes the place of one that its key has already.
        given_up: told of the error by which nothing is kept any more.
    """

    def __init__(
        self, path: Path, *, renewed: bool = False, given_up: Callable[[Exception], None] = lambda error: None
    ) -> None:
        self.path, self.most = path, KEPT_BYTES
        self._insert = "REPLACE" if renewed else "IGNORE"
        self._told, self._given_up = given_up, False

    def get(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """What is kept of these."""
        found: dict[bytes, bytes] = {}

        def read(database: sqlite3.Connection) -> None:
            for start in range(0, len(keys), ASKED_TOGETHER):
                asked = list(keys[start : start + ASKED_TOGETHER])
                marks = ",".join("?" * len(asked))
                found.update(database.execute(f"SELECT key, value FROM features WHERE key IN ({marks})", asked))

        self._on_database(read)
        return found

    def put(self, values: Mapping[bytes, bytes]) -> None:
        """Keeps them, as far as the file does not grow beyond what all may take."""
        insert = f"INSERT OR {self._insert} INTO features VALUES (?, ?)"
        if self.path.exists() and self.path.stat().st_size >= self.most:
            return
        self._on_database(lambda database: database.executemany(insert, list(values.items())))
        with contextlib.suppress(OSError):
            drop_oldest(self.path.parent, self.path, self.most)

    def _on_database(self, work: Callable[[sqlite3.Connection], object]) -> None:
        """Does the work and commits it; nothing where there is no cache to be had."""
        if self._given_up:
            return
        try:
            try:
                self._do(work)
            except sqlite3.DatabaseError as error:
                if type(error) is not sqlite3.DatabaseError:  # locked, or full: no fault of the file
                    raise
                self.path.unlink()
                self._do(work)
        except (OSError, sqlite3.Error) as error:
            self._given_up = True
            self._told(error)

    def _do(self, work: Callable[[sqlite3.Connection], object]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.closing(sqlite3.connect(self.path, timeout=60)) as database, database:
            database.execute("CREATE TABLE IF NOT EXISTS features (key BLOB PRIMARY KEY, value BLOB)")
            work(database)
        with contextlib.suppress(OSError):
            os.utime(self.path)


def drop_oldest(folder: Path, but: Path, most: int = KEPT_BYTES) -> None:
    """Deletes the files used longest ago until the folder holds ``most`` bytes at most; never ``but``."""
    files = [(file.stat(), file) for file in folder.glob("*.sqlite") if file != but]
    total = sum(state.st_size for state, _ in files) + (but.stat().st_size if but.exists() else 0)
    for state, file in sorted(files, key=lambda pair: pair[0].st_mtime):
        if total <= most:
            return
        file.unlink(missing_ok=True)
        total -= state.st_size

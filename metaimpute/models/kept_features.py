"""Features of frozen encoders, kept on disk by content: a second system, seed or fold does not compute them again.

One SQLite file for each encoder and its settings, in ``features`` of the user's cache (``METAIMPUTE_CACHE``). A row is found
by a hash of the content alone, so what is kept has to be a function of the content alone, to the last bit: an encoder must not
let the other members of a batch reach a row.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sqlite3
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..tasks.locate import cache_folder

KEPT_BYTES = 4 * 10**9  # of all files together; the one used longest ago goes first
ASKED_TOGETHER = 500


def digest(*content: bytes) -> bytes:
    """16 bytes that stand for a content."""
    found = hashlib.blake2b(digest_size=16)
    for part in content:
        found.update(len(part).to_bytes(8, "little"))
        found.update(part)
    return found.digest()


def fingerprint(file: Path) -> str:
    """Stands for a file's content, such as a network's weights."""
    found = hashlib.blake2b(digest_size=16)
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            found.update(block)
    return found.hexdigest()


class KeptFeatures:
    """Float32 vectors of one width by the digest of what they were computed from.

    Args:
        name: of the encoder, for the file's name. settings: whatever the vectors depend on beside the content; JSON values.

    Where the cache cannot be read or written a warning says so once, and nothing is kept.
    """

    def __init__(self, name: str, settings: Mapping[str, Any]) -> None:
        stamp = digest(json.dumps(dict(settings), sort_keys=True).encode()).hex()
        self.path = cache_folder() / "features" / f"{name}-{stamp}.sqlite"
        self._given_up = False

    def get(self, keys: Sequence[bytes]) -> dict[bytes, Tensor]:
        """What is kept of these, ``{key: [width]}``."""
        found: dict[bytes, Tensor] = {}

        def read(database: sqlite3.Connection) -> None:
            for start in range(0, len(keys), ASKED_TOGETHER):
                asked = list(keys[start : start + ASKED_TOGETHER])
                marks = ",".join("?" * len(asked))
                for key, value in database.execute(f"SELECT key, value FROM features WHERE key IN ({marks})", asked):
                    found[key] = torch.from_numpy(np.frombuffer(value, dtype="<f4").copy())

        self._on_database(read)
        return found

    def put(self, values: Mapping[bytes, Tensor]) -> None:
        """Keeps them; those of a key that is there already stay as they were."""
        rows = [(key, value.detach().cpu().numpy().astype("<f4").tobytes()) for key, value in values.items()]
        self._on_database(lambda database: database.executemany("INSERT OR IGNORE INTO features VALUES (?, ?)", rows))

    def _on_database(self, work: Callable[[sqlite3.Connection], object]) -> None:
        """Does the work and commits it; nothing where there is no cache to be had."""
        if self._given_up:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.closing(sqlite3.connect(self.path, timeout=60)) as database, database:
                database.execute("CREATE TABLE IF NOT EXISTS features (key BLOB PRIMARY KEY, value BLOB)")
                work(database)
            os.utime(self.path)
            drop_oldest(self.path.parent, self.path)
        except (OSError, sqlite3.Error) as error:
            self._given_up = True
            warnings.warn(f"features are not kept: {self.path}: {error}", stacklevel=3)


def drop_oldest(folder: Path, but: Path, most: int = KEPT_BYTES) -> None:
    """Deletes the files used longest ago until the folder holds ``most`` bytes at most; never ``but``."""
    files = [(file.stat(), file) for file in folder.glob("*.sqlite") if file != but]
    total = sum(state.st_size for state, _ in files) + (but.stat().st_size if but.exists() else 0)
    for state, file in sorted(files, key=lambda pair: pair[0].st_mtime):
        if total <= most:
            return
        file.unlink(missing_ok=True)
        total -= state.st_size

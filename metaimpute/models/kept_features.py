"""Features of frozen encoders, kept on disk by content: a second system, seed or fold does not compute them again.

One SQLite file for each encoder and its settings, in ``features`` of the user's cache (``METAIMPUTE_CACHE``). A row is found
by a hash of the content alone, so what is kept has to be a function of the content alone, to the last bit: an encoder must not
let the other members of a batch reach a row.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..tasks.kept import Kept, digest, drop_oldest
from ..tasks.locate import cache_folder

__all__ = ["KeptFeatures", "digest", "drop_oldest", "fingerprint"]


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
        self._kept = Kept(self.path, given_up=self._not_kept)

    def get(self, keys: Sequence[bytes]) -> dict[bytes, Tensor]:
        """What is kept of these, ``{key: [width]}``."""
        return {
            key: torch.from_numpy(np.frombuffer(value, dtype="<f4").copy())
            for key, value in self._kept.get(keys).items()
        }

    def put(self, values: Mapping[bytes, Tensor]) -> None:
        """Keeps them; those of a key that is there already stay as they were."""
        self._kept.put({key: value.detach().cpu().numpy().astype("<f4").tobytes() for key, value in values.items()})

    def _not_kept(self, error: Exception) -> None:
        warnings.warn(f"features are not kept: {self.path}: {error}", stacklevel=6)

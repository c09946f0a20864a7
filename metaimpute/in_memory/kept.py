"""What of a run's folder a predictor is made of, in memory: so that it can be pickled, whatever its network is."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

from ..inference import Predictor, load
from ..rundir.layout import MEMBERS, ORIGIN, RECIPE, RESULT, SYSTEMS, WEIGHTS
from ..tasks.base import LEARNT
from ..tasks.own_table import PREPROCESSING

FILES = (RECIPE, ORIGIN, RESULT, WEIGHTS, LEARNT, PREPROCESSING, SYSTEMS, MEMBERS)


def kept(folder: Path) -> dict[str, bytes]:
    """Contents of the files, by name."""
    return {name: (folder / name).read_bytes() for name in FILES if (folder / name).is_file()}


def restored(files: Mapping[str, bytes], device: str) -> Predictor:
    """The predictor of a run that :func:`kept` has read.

    Raises:
        MissingData: when it stands on an encoder that is not installed here.
    """
    with tempfile.TemporaryDirectory(prefix="metaimpute-") as scratch:
        for name, content in files.items():
            (Path(scratch) / name).write_bytes(content)
        return load(scratch, device)

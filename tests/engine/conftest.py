"""What tests of the engine share: a small problem, and that no block is left open."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from metaimpute.engine.blocks import inside, unused

from .inner_data import Data


@pytest.fixture
def data() -> Data:
    return Data()


@pytest.fixture(autouse=True)
def _nothing_left_open() -> Iterator[None]:
    yield
    assert not inside._open
    unused._waiting.clear()

"""The device of these tests: torch's current accelerator, or what METAIMPUTE_TEST_DEVICE names (``cpu`` tries them without one)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
import torch

os.environ.setdefault(
    "CUBLAS_WORKSPACE_CONFIG", ":4096:8"
)  # asked for by deterministic algorithms, read when CUDA starts

ASKED = os.environ.get("METAIMPUTE_TEST_DEVICE")
if ASKED == "sham":
    from .sham import start

    DEVICE: torch.device | None = start()
elif ASKED:
    DEVICE = torch.device(ASKED)
else:
    DEVICE = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
WITHOUT = "needs an accelerator, and torch finds none here; METAIMPUTE_TEST_DEVICE=cpu runs these tests on the CPU"


def needs_whole_device() -> None:
    """Leaves a test out on the sham device, for what that does not imitate."""
    if ASKED == "sham":
        pytest.skip("the sham device has no recurrent kernels, no autocast, no inference mode and no compiler")


@pytest.fixture
def device() -> torch.device:
    if DEVICE is None:
        pytest.skip(WITHOUT)
    return DEVICE


@pytest.fixture
def cuda(device: torch.device) -> torch.device:
    """For what torch measures or does on NVIDIA's and AMD's devices alone."""
    if device.type != "cuda":
        pytest.skip(f"needs a CUDA device; these tests run on {device.type}")
    return device


@pytest.fixture
def float64(device: torch.device) -> Iterator[None]:
    """Double precision by default."""
    if device.type == "mps":
        pytest.skip("mps has no float64")
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def reproducible() -> Iterator[None]:
    """The same numbers each time, to the bit: deterministic kernels where torch has them, no choice among them by timing, float32 as it is."""
    before: tuple[Any, ...] = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.backends.cudnn.benchmark,
        torch.backends.cudnn.allow_tf32,
    )
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark, torch.backends.cudnn.allow_tf32 = False, False
    yield
    torch.use_deterministic_algorithms(before[0], warn_only=before[1])
    torch.backends.cudnn.benchmark, torch.backends.cudnn.allow_tf32 = before[2:]

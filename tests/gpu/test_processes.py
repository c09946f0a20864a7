"""A group of processes on the device: NCCL's messages where there is a card for each, gloo's where they share one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from .conftest import ASKED

SCRIPT = Path(__file__).with_name("group.py")


def backend_of(device: torch.device, size: int) -> str:
    """NCCL takes one process a card; gloo lets several share one."""
    if device.type != "cuda":
        return "gloo"
    return "cpu:gloo,cuda:nccl" if size <= torch.cuda.device_count() else "cpu:gloo,cuda:gloo"


@pytest.mark.parametrize("size", [1, 2])
def test_a_group_has_the_hypergradients_of_the_joined_batch(size: int, device: torch.device, tmp_path: Path) -> None:
    if ASKED == "sham" or not torch.distributed.is_available():
        pytest.skip("needs torch.distributed and a backend for the device")
    where = str(device)
    if device.type == "cuda":
        where = "cuda" if size <= torch.cuda.device_count() else "cuda:0"
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        str(size),
        str(SCRIPT),
    ]
    surroundings = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, where, backend_of(device, size), str(tmp_path)],
        capture_output=True, text=True, env=surroundings, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    for rank in range(size):
        for kind, found in json.loads((tmp_path / f"{rank}.json").read_text()).items():
            wrong = {name: difference for name, difference in found.items() if not difference < 1e-8}
            assert found and not wrong, f"{kind}: {wrong}"

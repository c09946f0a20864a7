"""What a memory policy holds on the device, by the allocator's own count."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metaimpute.engine import Batches, FunctionalModel, hypergradient, momentum
from metaimpute.engine.live_memory import LiveBytes

STEPS = 16


class Wide:
    """Activations of about ten times the parameters' size, so that a policy shows."""

    def __init__(self, device: torch.device, width: int = 256, rows: int = 1024) -> None:
        torch.manual_seed(0)
        layers = [part for _ in range(4) for part in (nn.Linear(width, width), nn.Tanh())]
        self.model = FunctionalModel(nn.Sequential(*layers, nn.Linear(width, 3)).to(device))
        self.x, self.y = torch.randn(rows, width).to(device), torch.randint(0, 3, (rows,)).to(device)
        self.weights = torch.ones(rows, device=device)

    def inner(self, p: Any, c: Any, b: Any) -> Tensor:
        return (c * F.cross_entropy(self.model(p, self.x), self.y, reduction="none")).mean()

    def outer(self, p: Any, c: Any, b: Any) -> Tensor:
        return F.cross_entropy(self.model(p, self.x.flip(0)), self.y)

    def run(self, memory: str) -> Tensor:
        batches, rule = Batches([None], None), momentum(0.1)
        return hypergradient(self.inner, self.outer, self.model.params, self.weights, batches, rule, steps=STEPS, memory=memory,
                             seed=0, wrt_start=False).grad_c  # fmt: skip


def peak(problem: Wide, memory: str, device: torch.device) -> int:
    """Bytes above what is held before and after."""
    problem.run(memory)
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    problem.run(memory)
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


def test_rebuilding_holds_less_than_storing_and_offloading_less_than_that(cuda: torch.device) -> None:
    problem = Wide(cuda)
    found = {
        memory: peak(problem, memory, cuda) for memory in ("store", "recompute", "recompute(offload)", "revolve(3)")
    }
    print({memory: f"{bytes_ / 2**20:.1f} MiB" for memory, bytes_ in found.items()})
    carry = 2 * sum(p.nbytes for p in problem.model.params.values())
    assert found["recompute"] < 0.5 * found["store"]
    assert found["recompute(offload)"] < found["recompute"] - 0.5 * STEPS * carry, "the snapshots were on the device"
    assert found["revolve(3)"] < found["recompute"]


def test_later_hypergradients_hold_no_more_than_the_first_ones(cuda: torch.device) -> None:
    problem = Wide(cuda, rows=128)
    for _ in range(2):  # with what torch keeps from a first time
        problem.run("recompute(offload)")
    torch.cuda.synchronize(cuda)
    held = torch.cuda.memory_allocated(cuda)
    for _ in range(10):
        problem.run("recompute(offload)")
    torch.cuda.synchronize(cuda)
    assert torch.cuda.memory_allocated(cuda) <= held


def test_the_count_of_live_bytes_is_the_allocators(cuda: torch.device) -> None:
    """What ``auto(...)`` plans with is what the device's allocator hands out, up to its rounding and kernels' workspaces."""
    problem = Wide(cuda)
    allocated = peak(problem, "store", cuda)
    with LiveBytes() as live:
        problem.run("store")
    assert live.peak == pytest.approx(allocated, rel=0.25)


@pytest.mark.parametrize("budget", [64, 256])
def test_a_budget_is_kept_on_the_device(budget: int, cuda: torch.device) -> None:
    problem = Wide(cuda)
    room = budget << 20
    if peak(problem, "recompute", cuda) > room:
        room = 2 * peak(problem, "recompute", cuda)
    assert peak(problem, f"auto({room})", cuda) <= 1.1 * room


@pytest.mark.parametrize("memory", ["recompute(offload)", "checkpoint(4, offload)", "revolve(3, offload)", "auto(1GB)"])
def test_all_policies_give_the_stored_gradient(memory: str, device: torch.device) -> None:
    problem = Wide(device, width=32, rows=64)
    found, stored = problem.run(memory), problem.run("store")
    assert found.device.type == device.type
    torch.testing.assert_close(found, stored, rtol=1e-4, atol=1e-8)

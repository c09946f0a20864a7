"""Wall time as a ratio, live memory, floating-point operations."""

from __future__ import annotations

import gc
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from ..engine.live_memory import LiveBytes
from ..environment import device_name
from ..progress import phase

Work = Callable[[], Any]


Clock = Callable[[], float]


def _wait() -> None:
    """Until an accelerator has done what it was given."""
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()


def seconds(work: Work, clock: Clock = time.perf_counter) -> float:
    """Time of the work, with all that it leaves to an accelerator."""
    _wait()
    started = clock()
    work()
    _wait()
    return clock() - started


def paired_times(works: dict[str, Work], repeats: int, clock: Clock = time.perf_counter) -> dict[str, list[float]]:
    """Times of several pieces of work, taken in turn so that a slow moment of the machine hits all of them.

    Each is run once before, unmeasured.

    Args:
        clock: the wall's; ``time.process_time`` for work on one thread, where what else the machine does counts for less.
    """
    found: dict[str, list[float]] = {name: [] for name in works}
    with phase("timing", (1 + repeats) * len(works)) as reached:
        for work in works.values():
            work()
            reached.advance()
        for _ in range(repeats):
            for name, work in works.items():
                gc.collect()
                found[name].append(seconds(work, clock))
                reached.advance()
    return found


def ratio(times: list[float], unit: list[float]) -> tuple[float, float, float]:
    """Median, smallest and largest of the pairwise ratios."""
    each = [a / b for a, b in zip(times, unit, strict=True)]
    return statistics.median(each), min(each), max(each)


def peak_bytes(work: Work) -> int:
    """The most bytes of tensors alive at once that the work created."""
    gc.collect()
    live = LiveBytes()
    with live:
        work()
    return live.peak


def flops(work: Work) -> int:
    """Floating-point operations of the work's matrix products and convolutions, by torch's counter."""
    with FlopCounterMode(display=False) as counter:
        work()
    return int(counter.get_total_flops())


def processor() -> str:
    """Name of the CPU as the system tells it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def machine(device: str = "cpu") -> dict[str, Any]:
    """What a reader needs to judge a timing."""
    return {
        "cpu": processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": device_name(torch.device(device)),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": platform.system(),
    }

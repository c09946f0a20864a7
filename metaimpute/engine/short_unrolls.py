"""Short unrolls measured, and what they say of long ones: time and memory of k inner steps are lines in k."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .estimators import EstimatorError, HypergradientResult
from .live_memory import LiveBytes
from .memory import Auto, Footprint
from .pytree import tensors
from .replay import BadMemoryPolicy, repeated

SHORTEST, LONGEST = 6, 8  # inner steps of the longer one of two unrolls; the first two steps are often smaller ones
RUNS, MOST_RUNS = 3, 20  # of each length, the fastest of which counts
HEADROOM = 0.95  # of a budget, for what the outer loss needs beside the steps
NO_BUDGET = 1 << 60


@dataclass(frozen=True)
class Line:
    """A quantity after k steps, ``fixed + each * k``."""

    fixed: float
    each: float

    @classmethod
    def through(cls, low: int, high: int, at_low: float, at_high: float) -> Line:
        """The line through two measurements, of which noise makes neither the slope nor what is fixed negative."""
        each = min(max(0.0, (at_high - at_low) / (high - low)), at_high / high) if high > low else at_high / high
        return cls(at_high - each * high, each)

    def at(self, steps: int) -> float:
        return self.fixed + self.each * steps


class Clock:
    """Times short and long unrolls in turn with the steps alone, which are the unit of cost."""

    def __init__(self, plain: Callable[[int], None], counts: tuple[int, int], seconds: float) -> None:
        self.plain, self.counts, self.seconds = plain, counts, seconds
        self.alone: list[float] = []

    def __call__(self, work: Callable[[int], Any]) -> Line:
        """Seconds of the work after so many steps: of the fastest runs, since what else a machine does only adds."""
        short, long = self.counts
        began, found = time.perf_counter(), list[tuple[float, float]]()
        while len(found) < RUNS or (time.perf_counter() - began < self.seconds and len(found) < MOST_RUNS):
            found.append((seconds_of(work, short), seconds_of(work, long)))
            self.alone.append(seconds_of(self.plain, long))
        return Line.through(short, long, min(one for one, _ in found), min(other for _, other in found))

    def plain_step(self) -> float:
        return min(self.alone) / self.counts[1]


@dataclass(frozen=True)
class Measured:
    """An estimator on two short unrolls: ``apart`` is its relative error and its cosine."""

    name: str
    exact: bool
    seconds: Line
    peak: Line
    apart: tuple[float, float]

    @classmethod
    def of(
        cls, name: str, exact: bool, work: Callable[[int], Any], truth: Tensor, clock: Clock, counts: tuple[int, int]
    ) -> Measured:
        gc.collect()  # once: where a process holds much, it takes longer than what is measured
        apart = apart_from(flat(work(counts[1])), truth)
        peaks = [peak_of(partial(work, count)) for count in counts]
        return cls(name, exact, clock(work), Line.through(*counts, *peaks), apart)


def with_repetition(room: int | None, steps: int, footprint: Footprint, base: int) -> Iterator[tuple[str, int, int]]:
    """Memory policies that take steps again: name, how many, and the bytes at the peak; ``base``: bytes beside the unroll's."""
    held = base + footprint.first + footprint.working
    yield "recompute", steps, held + footprint.graph + steps * footprint.snapshot
    if room is None or base + stored(footprint, steps) <= room:
        return
    left = int(HEADROOM * (room - base))
    with suppress(BadMemoryPolicy):
        chosen = Auto(max(1, left)).plan(steps, footprint)
        remaining = steps - chosen.tail
        groups = math.ceil(remaining / chosen.group)
        policy = f"auto({left >> 20}MiB)" if left >= 10 << 20 else f"auto({left}B)"
        peak = held + chosen.group * footprint.graph + chosen.slots * footprint.snapshot
        yield policy, remaining + chosen.group * repeated(groups, chosen.slots), peak


def stored(footprint: Footprint, steps: int) -> int:
    return footprint.first + steps * footprint.graph + footprint.working


def footprint_of(gradient: Callable[..., HypergradientResult], steps: int) -> Footprint:
    """What steps hold, as an ``auto`` policy without a limit measures it."""
    policy = Auto(NO_BUDGET)
    gradient(steps, memory=policy)
    assert policy.footprint is not None
    return policy.footprint


def affordable(plain: Callable[[int], None], most: int, seconds: float) -> int:
    """As many steps, of at most so many, as fit into the time with their derivatives, some twenty times as long."""
    plain(1)
    one = max(seconds_of(plain, 1), 1e-6)
    return min(most, max(SHORTEST, int(seconds / (20 * one))))


def seconds_of(work: Callable[[int], Any], count: int) -> float:
    wait()
    began = time.perf_counter()
    work(count)
    wait()
    return time.perf_counter() - began


def wait() -> None:
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()


def peak_of(work: Callable[[], Any]) -> int:
    with LiveBytes() as live:
        work()
    peak: int = live.peak
    return peak


def flat(result: HypergradientResult) -> Tensor:
    """Every gradient that was asked for, in one vector."""
    leaves = tensors((result.grad_c, result.grad_theta_0, result.grad_optimizer))
    if not leaves:
        raise EstimatorError(
            "there is nothing to differentiate with respect to: no coupling, no tensor among hyperparameters"
        )
    return torch.cat([leaf.detach().double().flatten().cpu() for leaf in leaves])


def apart_from(found: Tensor, truth: Tensor) -> tuple[float, float]:
    """Relative error, and cosine; 1 and 0 for an estimate without a part that ``exact`` has."""
    if found.shape != truth.shape:
        return 1.0, 0.0
    size = truth.norm().clamp_min(1e-300)
    return float((found - truth).norm() / size), float(torch.nn.functional.cosine_similarity(found, truth, dim=0))

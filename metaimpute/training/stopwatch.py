"""Where the time of a run goes: seconds in each part of a step, summed over the run."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import torch


class Stopwatch:
    """Times named parts. A part inside another stops the other's watch, so the parts add up.

    An accelerator is waited for at the ends of a part, or its work would be counted where somebody happens to wait.

    Attributes:
        seconds: by name, over the whole run.
    """

    def __init__(self, device: torch.device) -> None:
        self.device, self.seconds = device, dict[str, float]()
        self._open: list[tuple[str, float]] = []

    def _now(self) -> float:
        if self.device.type != "cpu":
            torch.accelerator.synchronize(self.device)
        return time.perf_counter()

    def _close(self, now: float) -> None:
        if self._open:
            name, since = self._open[-1]
            self.seconds[name] = self.seconds.get(name, 0.0) + now - since

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        now = self._now()
        self._close(now)
        self._open.append((name, now))
        try:
            yield
        finally:
            now = self._now()
            self._close(now)
            self._open.pop()
            if self._open:
                self._open[-1] = (self._open[-1][0], now)

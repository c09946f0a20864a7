"""Where the time of a run goes: seconds in each part of a step, summed over the run."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import torch


class Stopwatch:
    """Times named parts. A part inside another stops the other's watch, so the parts add up.

    On an accelerator a part's ends are marked in its own queue of work, and read when the seconds are asked for: waiting for it
    at each of them would cost more than what is timed. Where it has no such marks it is waited for.
    """

    def __init__(self, device: torch.device) -> None:
        self.device, self._sums = device, dict[str, float]()
        self._open: list[tuple[str, Any]] = []
        self._marked: list[tuple[str, Any, Any]] = []
        self._marks = device.type != "cpu" and _has_marks(device)

    def _now(self) -> Any:
        if self._marks:
            mark = torch.Event(device=self.device, enable_timing=True)
            mark.record()
            return mark
        if self.device.type != "cpu":
            torch.accelerator.synchronize(self.device)
        return time.perf_counter()

    def _close(self, now: Any) -> None:
        if not self._open:
            return
        name, since = self._open[-1]
        if self._marks:
            self._marked.append((name, since, now))
        else:
            self._sums[name] = self._sums.get(name, 0.0) + now - since

    @property
    def seconds(self) -> dict[str, float]:
        """By name, over the whole run."""
        marked, self._marked = self._marked, []
        if marked:
            torch.accelerator.synchronize(self.device)
        for name, start, end in marked:
            self._sums[name] = self._sums.get(name, 0.0) + start.elapsed_time(end) / 1000
        return self._sums

    @seconds.setter
    def seconds(self, value: dict[str, float]) -> None:
        self._sums, self._marked = value, []

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


def _has_marks(device: torch.device) -> bool:
    try:
        torch.Event(device=device, enable_timing=True).record()
    except (RuntimeError, NotImplementedError):
        return False
    return True

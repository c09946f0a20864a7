"""How far long work has come: the work names its phases and counts in them, and whoever listens shows that.

Work that nobody listens to is as fast as before. What is heard follows the call, and not the thread or the process.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

T = TypeVar("T")

REMEMBERED = 30  # moments that the rate is taken from, a second apart


@dataclass(eq=False)
class Phase:
    """A part of long work.

    Attributes:
        name: of it, e.g. ``encoding texts``. total: how much there is to do; None where that is not known. done: of that.
        note: what it is at. begun: when, in seconds of :func:`time.monotonic`.
    """

    name: str
    total: int | None = None
    done: float = 0
    note: str = ""
    begun: float = field(default_factory=lambda: time.monotonic())
    _listener: Listener | None = None
    _moments: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=REMEMBERED))

    def to(self, done: float, total: int | None = None, note: str | None = None) -> None:
        """Says how much is done, a part of one too; ``total`` and ``note`` where they have changed."""
        if done < self.done:  # of something else from now on
            self._moments.clear()
            self._moments.append((time.monotonic(), done))
        self.done = done
        self.total = self.total if total is None else total
        self.note = self.note if note is None else note
        if self._listener is not None:
            now = time.monotonic()
            if now - self._moments[-1][0] >= 1:
                self._moments.append((now, done))
            self._listener.moved()

    def again(self, total: int | None) -> None:
        """Begins anew, with so much to do."""
        self.total, self.done, self.begun = total, 0, time.monotonic()
        self._moments.clear()
        self._moments.append((self.begun, 0))

    def end(self) -> None:
        """Says that the phase is over."""
        if self._listener is not None:
            self._listener.phases.remove(self)
            self._listener.moved()

    def advance(self, by: int = 1) -> None:
        """Says that so much more is done."""
        self.to(self.done + by)

    def left(self, now: float) -> float | None:
        """Seconds to go at the rate of the last half minute or so; None where nothing tells."""
        since, before = self._moments[0]
        if not self.total or self.done <= before or now <= since:
            return None
        return max(self.total - self.done, 0) * (now - since) / (self.done - before)


class Listener(Protocol):
    """Shows phases. ``phases``: those under way, the innermost last."""

    phases: list[Phase]

    def moved(self) -> None:
        """Hears that a phase has begun, come further or ended."""


_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)


@contextlib.contextmanager
def heard_by(listener: Listener) -> Iterator[None]:
    """Phases in the block are heard by ``listener``."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def unheard() -> None:
    """From now on nobody hears of this process's phases: it is a copy of one whose terminal it shares."""
    _listener.set(None)


@contextlib.contextmanager
def phase(name: str, total: int | None = None, done: int = 0) -> Iterator[Phase]:
    """A phase that lasts as long as the block.

    Args:
        total: how much there is to do; None where that is not known. done: what had been done before.
    """
    found = begin(name, total, done)
    try:
        yield found
    finally:
        found.end()


def begin(name: str, total: int | None = None, done: float = 0) -> Phase:
    """A phase that lasts until its :meth:`Phase.end`."""
    found = Phase(name, total, done, _listener=_listener.get())
    found._moments.append((found.begun, done))
    if found._listener is not None:
        found._listener.phases.append(found)
        found._listener.moved()
    return found


def counted(items: Iterable[T], name: str, total: int | None = None) -> Iterator[T]:
    """The items, as a phase in which each is counted once it has been dealt with."""
    with phase(name, total) as found:
        for item in items:
            yield item
            found.advance()

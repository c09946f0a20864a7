"""A cluster without machines: calls are carried out here, one at each look, and die when a test says so."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from metaimpute.cluster.calls import Call, Lost, Reached
from metaimpute.cluster.node import Sent, carry_out, sent


class Desk:
    """A desk of :class:`Made`."""

    def __init__(self, cluster: Made, name: str, folder: Path) -> None:
        self.folder, self._cluster, self._name = folder, cluster, name

    def tell(self, reached: Reached) -> None:
        self._cluster.words.append((self._name, reached))

    def stopping(self) -> bool:
        return self._cluster.stopped


class Made:
    """What :class:`metaimpute.cluster.calls.Cluster` asks for.

    Attributes:
        deaths: how often the call of a name dies before it is answered. interrupt: after so many answers Ctrl-C is pressed.
    """

    def __init__(self, deaths: dict[str, int] | None = None, interrupt: int | None = None) -> None:
        self.deaths, self.interrupt = dict(deaths or {}), interrupt
        self.stopped, self.dropped, self.answered = False, list[str](), list[str]()
        self.words = list[tuple[str, Reached]]()
        self.handles = dict[int, Sent]()
        self.before: Callable[[Sent], None] = lambda work: None

    def submit(self, call: Call) -> int:
        self.handles[len(self.handles)] = sent(call)
        return len(self.handles) - 1

    def ready(self, handles: Sequence[Any], seconds: float) -> list[Any]:
        if self.interrupt == len(self.answered):
            self.interrupt = None
            raise KeyboardInterrupt
        return list(handles[:1])

    def answer(self, handle: Any) -> Any:
        work = self.handles[handle]
        if self.deaths.get(work.name):
            self.deaths[work.name] -= 1
            return Lost("its node died")
        self.before(work)
        self.answered.append(work.name)
        return carry_out(work, lambda folder: Desk(self, work.name, folder))

    def news(self) -> list[tuple[str, Reached]]:
        found, self.words = self.words, []
        return found

    def stop(self) -> None:
        self.stopped = True

    def drop(self, handle: Any) -> None:
        self.dropped.append(self.handles[handle].name)


def double(number: int, desk: Desk) -> int:
    """What a test calls."""
    desk.tell(Reached("doubling", 1, 1))
    return 2 * number

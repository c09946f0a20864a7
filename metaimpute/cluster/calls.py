"""What a driver and a cluster's nodes say to each other, and what a cluster has to be able to do."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from ..errors import UserError


class ClusterError(UserError, RuntimeError):
    """A cluster that cannot be reached, or whose nodes cannot do the work. Ends a command with exit code 2."""


@dataclass(frozen=True)
class Reached:
    """How far a call has come: the phase it is in, and how much of that is done; ``total`` None where unknown."""

    name: str
    done: float
    total: int | None


@dataclass(frozen=True)
class Lost:
    """No answer, since the process or its machine has died: ``reason`` in one line. ``kept``: what could be saved of it."""

    reason: str
    kept: Any = None


@dataclass(frozen=True)
class Refused:
    """No answer, since the node is not fit for the work: ``reason`` in one line."""

    reason: str


@dataclass(frozen=True, eq=False)
class Call:
    """Work for a node: ``function(*arguments(), desk)``.

    Attributes:
        name: what it is heard of by; no two calls have the same. function: ``module:name``, imported on the node.
        arguments: makes them when the call is sent, and again when it is sent anew. files: that lie in ``desk.folder`` on the
            node, which is on the search path there, by their names below it.
    """

    name: str
    function: str
    arguments: Callable[[], tuple[Any, ...]]
    files: Mapping[str, bytes] = field(default_factory=dict)


class Desk(Protocol):
    """What a call has on its node: an empty folder of its own but for the call's files, and a line to the driver."""

    folder: Path

    def tell(self, reached: Reached) -> None:
        """Says how far the call has come."""

    def stopping(self) -> bool:
        """Whether the driver has asked every call to end."""


class Cluster(Protocol):
    """Machines that calls can be sent to. A handle stands for a call that was sent."""

    def submit(self, call: Call) -> Any:
        """Sends a call; it begins when there is room."""

    def ready(self, handles: Sequence[Any], seconds: float) -> list[Any]:
        """Handles of calls that are over, as soon as there is one, or none after so many seconds."""

    def answer(self, handle: Any) -> Any:
        """What a call that is over returned, or :class:`Lost`, of an exception too, or :class:`Refused`."""

    def news(self) -> list[tuple[str, Reached]]:
        """How far calls have come since this was last asked, by their names."""

    def stop(self) -> None:
        """Asks every call under way to end."""

    def drop(self, handle: Any) -> None:
        """Ends a call, whatever it is at."""

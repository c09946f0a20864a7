"""Where calls on all nodes leave word of how far they have come, and learn that they are to end."""

from __future__ import annotations

from .calls import Reached


class Board:
    """Runs on one node, for all calls of a driver."""

    def __init__(self) -> None:
        self._news = dict[str, Reached]()
        self._stopping = False

    def tell(self, name: str, reached: Reached) -> None:
        """Keeps the latest word of a call."""
        self._news[name] = reached

    def news(self) -> list[tuple[str, Reached]]:
        """What has been told since this was last asked."""
        found, self._news = list(self._news.items()), {}
        return found

    def stop(self) -> None:
        """From now on every call that asks is to end."""
        self._stopping = True

    def stopping(self) -> bool:
        """Whether it is."""
        return self._stopping

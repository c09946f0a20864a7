"""Phases on the standard error: a live line each on a terminal, one line that is written over in a notebook, else a line now and
then. The bar, the count and the time left are the last to go where there is little room.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import TypeVar

from rich.cells import cell_len, set_cell_size
from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.text import Text

from .progress import Phase, heard_by
from .terminal import cell, spelled

S = TypeVar("S", bound="Shown")

BRIEF = 0.5  # seconds that an inner phase lasts before it is shown
FIRST, SILENT, BETWEEN = 5.0, 10.0, 30.0  # where no line is live: seconds of a phase, without a word, between its lines
OVERWRITTEN = 0.3  # seconds between versions of a line in a notebook
WIDEST = 40  # cells of a bar
NARROWEST = 6
TURNING = "|/-\\"


def clock(seconds: float) -> str:
    """``1:02:03``, or ``2:03`` below an hour."""
    minutes, rest = divmod(int(seconds + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def name_of(phase: Phase) -> str:
    return spelled(f"{phase.name}: {phase.note}" if phase.note else phase.name)


def count_of(phase: Phase) -> str:
    if phase.total is None:
        return f"{int(phase.done):,}" if phase.done else ""
    return f"{int(phase.done):,}/{phase.total:,}"


def time_of(phase: Phase, now: float) -> str:
    """Time left, or where nothing tells that, the time that has passed."""
    left = phase.left(now)
    return f"{clock(now - phase.begun)} so far" if left is None else f"{clock(left)} left"


def line_of(phase: Phase, width: int, now: float, name_width: int = 0) -> Text:
    """A phase in ``width`` cells: name, bar, count, time. The name is cut first, then the bar shrinks.

    Args:
        name_width: cells of the name at least, where there is room.
    """
    end = "  ".join(filter(None, (count_of(phase), time_of(phase, now))))
    room = width - cell_len(end) - 2
    name = name_of(phase)
    wanted = max(cell_len(name), name_width)
    bar = min(WIDEST, max(NARROWEST, room - wanted - 2)) if phase.total is not None else 1
    if room - bar - 2 < 4:  # no room for both
        bar = max(0, room) if phase.total is not None else 1
        return Text.assemble(_bar(phase, bar, now), "  " if bar else "", (end, "cyan"))
    kept = min(wanted, room - bar - 2)
    shown = name if cell_len(name) <= kept else set_cell_size(name, kept - 1) + "…"
    return Text.assemble(set_cell_size(shown, kept), "  ", _bar(phase, bar, now), "  ", (end, "cyan"))


def _bar(phase: Phase, cells: int, now: float) -> Text:
    if phase.total is None:
        return Text(TURNING[int(4 * (now - phase.begun)) % 4], "cyan")
    full = round(cells * min(1.0, phase.done / max(phase.total, 1)))
    return Text.assemble(("━" * full, "green"), ("─" * (cells - full), "dim"))


def plain_line(phase: Phase, now: float) -> str:
    """A phase as a line of a log: ``encoding texts: 312/950, 0:42 left``."""
    return f"{name_of(phase)}: {', '.join(filter(None, (count_of(phase), time_of(phase, now))))}"


def in_notebook() -> bool:
    """Whether the standard error is a cell of a notebook."""
    return type(sys.stderr).__module__.startswith("ipykernel.")


def standard_error() -> Console:
    """The standard error as rich writes to it, long lines whole where no terminal is."""
    return Console(stderr=True, markup=False, highlight=False, emoji=False, soft_wrap=not sys.stderr.isatty())


class Shown:
    """Listens to phases and shows them. Use as a context manager: what is done in the block is heard.

    When nobody reads the output any more, nothing is shown from then on; :meth:`when_unread` says what else is to happen.

    Args:
        console: where to. hidden: says nothing but what :meth:`say` is given with ``always``.

    Attributes:
        unread: whether nobody reads the output any more. note: measurements, on a line of their own below the phases.
    """

    def __init__(self, console: Console, hidden: bool = False) -> None:
        self.console, self.hidden = console, hidden
        self.phases: list[Phase] = []
        self.note, self.unread = "", False
        self._when_unread: Callable[[], None] = lambda: None
        self._is_unread: Callable[[], bool] = lambda: False
        self._overwrites = in_notebook() and not hidden
        live = console.is_terminal and not console.is_dumb_terminal and not hidden and not self._overwrites
        self._live: Live | None = None
        if live:  # results that go to another place than the screen are not for it to redirect
            both = sys.stdout is not None and sys.stdout.isatty()
            self._live = Live(self, console=console, transient=True, refresh_per_second=8, redirect_stdout=both)
        self._next, self._length = 0.0, 0
        self._hearing = contextlib.ExitStack()

    def __enter__(self: S) -> S:
        self._hearing.enter_context(heard_by(self))
        if self._live is not None:
            self._show(self._live.start)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._hearing.close()
        with contextlib.suppress(OSError):
            if self._live is not None:
                self._live.stop()
            self._clear()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        now = time.monotonic()
        shown = self.visible(now)
        names = max((cell_len(name_of(phase)) for phase in shown), default=0)
        for phase in shown:
            yield line_of(phase, options.max_width, now, names)
        if self.note and shown:
            line = Text(f"  {spelled(self.note)}", "dim")
            line.truncate(options.max_width, overflow="ellipsis")
            yield line

    def visible(self, now: float) -> Sequence[Phase]:
        """Phases to show: the outermost, and inner ones that last."""
        return [p for place, p in enumerate(list(self.phases)) if not place or now - p.begun >= BRIEF]

    def moved(self) -> None:
        if self.hidden or self._live is not None or self.unread:
            self._look()
            return
        now = time.monotonic()
        if self._overwrites:
            if now >= self._next:
                self._next = now + OVERWRITTEN
                self._show(self._overwrite)
        elif self.phases and now >= max(self._next, self.phases[-1].begun + FIRST):
            self.say(plain_line(self.phases[-1], now))
            self._next = now + BETWEEN
        self._look()

    def _overwrite(self) -> None:
        if not self.phases:
            self._clear()
            return
        now = time.monotonic()
        text = "; ".join(plain_line(phase, now) for phase in self.visible(now))
        text = spelled(f"{text}; {self.note}" if self.note else text)
        self.console.file.write("\r" + text.ljust(self._length))
        self.console.file.flush()
        self._length = len(text)

    def _clear(self) -> None:
        if self._length:
            self.console.file.write("\r" + " " * self._length + "\r")
            self._length = 0

    def say(self, message: object, style: str = "", always: bool = False) -> None:
        """Shows a line, above the phases."""

        def show() -> None:
            self._clear()
            self.console.print(cell(message, style))

        if always or not self.hidden:
            self._show(show)
            self._next = time.monotonic() + SILENT

    def aside(self, show: Callable[[], None]) -> None:
        """Calls what writes elsewhere on the same screen, with no live line in its way."""
        if self._live is None:
            show()
            return
        self._live.stop()
        try:
            show()
        finally:
            self._show(self._live.start)

    def when_unread(self, call: Callable[[], None], is_unread: Callable[[], bool] = lambda: False) -> None:
        """What to call, once, when nobody reads the output any more; at once where that is so already.

        Args:
            is_unread: asked now and then whether the results' reader has gone.
        """
        self._when_unread, self._is_unread = call, is_unread
        if self.unread:
            call()

    def _look(self) -> None:
        if not self.unread and self._is_unread():
            self._gone()

    def _gone(self) -> None:
        self.unread = True
        self._when_unread()

    def _show(self, show: Callable[[], object]) -> None:
        if self.unread:
            return
        try:
            show()
        except OSError:
            self._gone()


@contextlib.contextmanager
def watched(verbose: int) -> Iterator[Shown | None]:
    """Shows the phases of what is done in the block on the standard error; nothing, and None, where ``verbose`` is 0."""
    if not verbose:
        yield None
        return
    with Shown(standard_error()) as found:
        yield found

"""Signals that ask a run to stop after the step under way."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from types import FrameType

HANGUP = getattr(signal, "SIGHUP", 0)  # none on Windows


@contextlib.contextmanager
def stopping_on_signals(
    stop: Callable[[], None], asked: Callable[[], bool], say: Callable[[str], None], patient: bool = False
) -> Iterator[None]:
    """SIGINT, SIGTERM and SIGHUP call ``stop`` in this block; a second one interrupts at once.

    One that is ignored, as nohup has it, stays so. Outside the main thread, which alone may set handlers, nothing changes.

    Args:
        stop: asks for the end. asked: whether that was done before. say: receives a line for the user.
        patient: a second one says nothing new: torchrun hands on what the terminal sends to all, and ends those that linger.
    """

    def ask(number: int, frame: FrameType | None) -> None:
        if asked() and patient:
            return
        if asked() and number != HANGUP:  # a terminal that closes may say so several times
            raise KeyboardInterrupt
        stop()
        with contextlib.suppress(OSError):  # the terminal may be gone
            say("stopping after this step" + ("" if patient else " (again to stop at once)"))

    known = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, HANGUP) if number}
    before = {number: handler for number, handler in known.items() if handler is not signal.SIG_IGN}
    try:
        for number in before:
            signal.signal(number, ask)
    except ValueError:  # not the main thread
        before = {}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

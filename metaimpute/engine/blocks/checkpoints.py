"""Activation checkpoints taken in a block: their second forward pass comes later, when the block may have ended.

A module's own checkpoints refer to the twin of their call and need no more than the kernels that it had. One around the module,
``checkpoint(model, x)`` in the loop, would find whatever weights are in place when the reverse pass runs, after the block the
user's own.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

from torch.utils import checkpoint

from ..ambient import double_differentiable, holder
from ..repetition import rebuilding

_PLACE: Any = checkpoint  # a module in which a class is replaced for a while
_NAME = "_CheckpointFrame"  # of one checkpoint, made with the function that takes its forward pass again
Snapshot = Callable[[], Callable[[], contextlib.AbstractContextManager[None]]]


class _Here(threading.local):
    """How many calls of a block's modules this thread is in."""

    twins = 0


_here = _Here()


@contextlib.contextmanager
def inside_a_twin() -> Iterator[None]:
    """Around a module's call: checkpoints within refer to what is its own."""
    _here.twins += 1
    try:
        yield
    finally:
        _here.twins -= 1


@contextlib.contextmanager
def checkpoints_wrapped(as_now: Snapshot) -> Iterator[None]:
    """Functions that are checkpointed in this block are run again with what is in place now, back in place."""
    original, thread = getattr(_PLACE, _NAME), threading.get_ident()

    def frame(again: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if threading.get_ident() != thread:  # another's, which has nothing to do with the block
            return original(again, *args, **kwargs)
        return original(_as_then(again, contextlib.nullcontext if _here.twins else as_now()), *args, **kwargs)

    setattr(_PLACE, _NAME, frame)
    try:
        yield
    finally:
        setattr(_PLACE, _NAME, original)


def _as_then(
    again: Callable[..., Any], as_then: Callable[[], contextlib.AbstractContextManager[None]]
) -> Callable[..., Any]:
    part_of = holder()

    def run(*args: Any, **kwargs: Any) -> Any:
        with double_differentiable(part_of), rebuilding(), as_then():
            return again(*args, **kwargs)

    return run

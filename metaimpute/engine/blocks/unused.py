"""Blocks whose last weights nothing has used: their outer loss was computed elsewhere, at the model's own weights."""

from __future__ import annotations

import atexit
import warnings
import weakref
from dataclasses import dataclass


@dataclass
class Use:
    """Attributes:
    ever: whether the models were called in the block at all. since: whether since its last step, in it or after it."""

    ever: bool = False
    since: bool = False


_waiting: list[tuple[weakref.ref[object], Use]] = []


def watch(block: object, use: Use) -> None:
    """Waits until the block is used or gone."""
    if use.ever and not use.since:
        _waiting.append((weakref.ref(block), use))


def warn_of_unused(*, at_exit: bool = False) -> None:
    """Warns of blocks that have gone, or that go with the process, without their end having been used."""
    waiting, _waiting[:] = list(_waiting), []
    for block, use in waiting:
        if use.since:
            continue
        if block() is None or at_exit:
            warnings.warn(
                "nothing has used the weights that the last step of an inner block led to; compute the outer loss inside the "
                "block, or by block(x): after it model(x) is at the weights from before it",
                stacklevel=3,
            )
        else:
            _waiting.append((block, use))


atexit.register(warn_of_unused, at_exit=True)

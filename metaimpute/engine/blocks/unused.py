"""Blocks whose last weights nothing has used: their outer loss was computed elsewhere, at the model's own weights."""

from __future__ import annotations

import atexit
import warnings
import weakref
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

from torch import Tensor


@dataclass
class Use:
    """Whether weights are used: by a call of the models, or by whatever a gradient comes back from.

    Attributes:
        ever: whether the models were called in the block at all. since: whether since its last step, in it or after it.
        steps: how many were taken.
    """

    ever: bool = False
    since: bool = False
    steps: int = 0

    def led_to(self, weights: Iterable[Tensor]) -> None:
        """A step ended at these weights."""
        self.since, self.steps = False, self.steps + 1
        for weight in weights:
            if weight.requires_grad:
                weight.register_hook(partial(self._reached, self.steps))

    def _reached(self, step: int, _: Tensor) -> None:
        self.since = self.since or step == self.steps


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

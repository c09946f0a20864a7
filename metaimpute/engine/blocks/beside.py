"""Blocks that are open beside one another: whether a step of one goes on through the steps of the others.

Each block's weights are made by its steps, so a loss of two blocks' weights may depend on those of the one twice over: as they
are, and through what the other has learnt from them. ``torch.optim`` has the partial derivative there, a hypergradient is the
total one. Which is meant nothing in the program says, so where they differ the step has to.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.autograd.function import Function

from ..ambient import CannotDifferentiate
from ..registry import describe_choices

Others = Literal["constant", "through"]


@dataclass
class _Step:
    """A step whose gradient is being taken: of which block, what it asked for, and whether it met another's weights."""

    block: object
    others: Others | None
    met: bool = False


_steps: list[_Step] = []  # of one thread at a time (:func:`.ambient.exclusive`)


class Gate(Function):
    """Weights as they are. A step of another block that is open does not look behind them unless it asked to."""

    @staticmethod
    def forward(ctx: Any, is_open: Callable[[], object | None], *weights: Tensor) -> Any:
        ctx.set_materialize_grads(False)
        ctx.is_open = is_open
        return tuple(weight.view_as(weight) for weight in weights)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor | None) -> Any:
        step = _steps[-1] if _steps else None
        block = ctx.is_open()
        if step is not None and block is not None and block is not step.block and any(s is not None for s in slopes):
            step.met = True
            if step.others != "through":
                return None, *(None for _ in slopes)
        return None, *slopes


def gated(is_open: Callable[[], object | None], weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights, behind which other blocks' steps do not look.

    Args:
        is_open: the block, where it is open.
    """
    return dict(zip(weights, Gate.apply(is_open, *weights.values()), strict=True))


@contextlib.contextmanager
def gradient_of(block: object, others: Others | None) -> Iterator[None]:
    """The surroundings of a step's own gradient.

    Raises:
        CannotDifferentiate: at the end, where the other blocks' steps lead back to the weights of this one and nobody said
            whether they count.
    """
    step = _Step(block, others)
    _steps.append(step)
    try:
        yield
    finally:
        _steps.remove(step)
    if step.met and others is None:
        raise CannotDifferentiate(
            "the loss depends on these weights through the steps of another open block as well; say block.step(loss, "
            "others='constant') for the derivative that torch.optim takes (players that take turns), or others='through' for the "
            "one through those steps (a hypergradient)"
        )


def require_known(others: Any, mode: str) -> None:
    """Raises:
    CannotDifferentiate: for a word that says neither, and for steps through others in a block without a graph."""
    if others is not None and others not in get_args(Others):
        raise CannotDifferentiate(
            f"others is None, 'constant' or 'through'; {describe_choices(str(others), list(get_args(Others)))}"
        )
    if others == "through" and mode != "full":
        raise CannotDifferentiate(
            "others='through' differentiates other blocks' steps, of which a block with differentiable=False or "
            "first_order=True, or under no_grad, has no derivative; leave that out"
        )


def is_tracking(weights: Mapping[str, Tensor]) -> bool:
    return torch.is_grad_enabled() and any(weight.requires_grad for weight in weights.values())

"""A step whose graph keeps no tensors: what its reverse pass needs is found by taking the step again.

As torch's activation checkpointing without re-entry, by hooks on saved tensors, so that whatever a loss reaches gets its gradient
and the result may be differentiated more than once. Unlike it, a step that takes a gradient inside is not run again for that.
"""

from __future__ import annotations

import contextlib
import types
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks


class Rebuilt:
    """One step.

    Args:
        again: takes the step once more, with a graph, from the same start.
        neighbours: the steps of one loop, of which one at a time has its tensors rebuilt.
    """

    def __init__(self, again: Callable[[], None], neighbours: weakref.WeakSet[Rebuilt]) -> None:
        self._again = again
        self._taken: list[Tensor] | None = None
        self._found: dict[int, Tensor] = {}
        self._neighbours = neighbours
        neighbours.add(self)

    @contextlib.contextmanager
    def taking(self) -> Iterator[None]:
        """The step is taken in this block; its tensors are dropped at the end."""
        self._taken = []
        try:
            with saved_tensors_hooks(self._put_away, self._take_out):
                yield
        finally:
            self._taken = None

    def _put_away(self, tensor: Tensor) -> int:
        assert self._taken is not None
        self._taken.append(tensor.detach())
        return len(self._taken) - 1

    def _take_out(self, number: int) -> Tensor:
        if self._taken is not None:  # a gradient inside the step
            return self._taken[number]
        if number not in self._found:
            for other in self._neighbours:
                other._found = {}
            found: list[Tensor] = []

            def put_away(tensor: Tensor) -> int:
                found.append(tensor.detach())
                return len(found) - 1

            with torch.enable_grad(), saved_tensors_hooks(put_away, found.__getitem__):
                self._again()
            self._found = dict(enumerate(found))
        return self._found.pop(number)


def as_it_is(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function that goes on seeing the names it uses as they are now: a loop's variables are others a turn later."""
    if not isinstance(function, types.FunctionType):
        return function
    try:
        cells = tuple(types.CellType(cell.cell_contents) for cell in function.__closure__ or ())
    except ValueError:  # not filled yet
        return function
    names = {"__builtins__", "__name__", *_names(function.__code__)}
    used = {name: function.__globals__[name] for name in names if name in function.__globals__}
    made = types.FunctionType(function.__code__, used, function.__name__, function.__defaults__, cells or None)
    made.__kwdefaults__ = function.__kwdefaults__
    return made


def _names(code: types.CodeType) -> set[str]:
    """Global names in a function's code, and in the code within that."""
    inside = (_names(constant) for constant in code.co_consts if isinstance(constant, types.CodeType))
    return set(code.co_names).union(*inside)

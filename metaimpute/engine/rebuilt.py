"""A step whose graph keeps no tensors: what its reverse pass needs is found by taking the step again.

As torch's activation checkpointing without re-entry, by hooks on saved tensors, so that whatever a loss reaches gets its gradient
and the result may be differentiated more than once. Unlike it, a step that takes a gradient inside is not run again for that.
"""

from __future__ import annotations

import contextlib
import types
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from .pytree import Tree, tensors
from .repetition import NotRepeatable

Flags = Sequence[tuple[Tensor, bool]]
_WAY_OUT = (
    "set the flags of all that it uses before it and leave them until the gradient is taken, or use memory 'store'"
)


class Rebuilt:
    """One step.

    Args:
        again: takes the step once more, with a graph, from the same start.
        neighbours: the steps of one loop, of which one at a time has its tensors rebuilt.
    """

    def __init__(self, again: Callable[[], None], neighbours: weakref.WeakSet[Rebuilt]) -> None:
        self._again = again
        self._taken: list[Tensor] | None = None
        self._marks: list[Any] = []  # of what the step's graph saved, in its order
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
            self._marks = list(map(_mark, self._taken))
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
            self._require_same(found)
            self._found = dict(enumerate(found))
        return self._found.pop(number)

    def _require_same(self, found: Sequence[Tensor]) -> None:
        """Tensors are told apart by their place in the order in which they were saved."""
        marks = list(map(_mark, found))
        if marks == self._marks:
            return
        what = f"{len(marks)} tensors where it saved {len(self._marks)}"
        if len(marks) == len(self._marks):
            other = next((now, then) for now, then in zip(marks, self._marks, strict=True) if now != then)
            what = "a tensor {} where it saved one {}".format(*map(_in_words, other))
        raise NotRepeatable(
            f"a step that was taken again saved {what}: a tensor that it uses had another requires_grad flag or shape then, or "
            f"its function went another way; {_WAY_OUT}"
        )


def _mark(tensor: Tensor) -> tuple[torch.Size, torch.dtype, torch.device]:
    return tensor.shape, tensor.dtype, tensor.device


def _in_words(mark: tuple[torch.Size, torch.dtype, torch.device]) -> str:
    return f"of shape {list(mark[0])} ({mark[1]}, {mark[2]})"


def require_no_more(now: Sequence[Tensor], then: Sequence[Tensor]) -> None:
    """Holds the tensors that a step uses and that require a gradient against those of the first time.

    Raises:
        NotRepeatable: when there are more of them; one that a function makes anew counts as the one that it made.
    """
    if len(now) > len(then):
        known = set(map(id, then))
        other = next(leaf for leaf in now if id(leaf) not in known)
        raise NotRepeatable(
            f"a tensor of shape {list(other.shape)} that a step uses requires a gradient now and did not in the step; "
            f"{_WAY_OUT}"
        )


Versions = Sequence[tuple[Tensor, int]]


def versions(tree: Tree) -> Versions:
    """How often each tensor of the tree has been changed in place."""
    return [(leaf, leaf._version) for leaf in tensors(tree) if not leaf.is_inference()]


def require_untouched(then: Versions) -> None:
    """Raises:
    NotRepeatable: for a tensor that was changed in place since."""
    for leaf, version in then:
        if leaf._version != version:
            raise NotRepeatable(
                f"a tensor of shape {list(leaf.shape)} among the weights and the optimizer's state that a step began or ended "
                "with was changed in place since; change a copy of it, or take the gradient before"
            )


@contextlib.contextmanager
def flags_as_then(flags: Flags) -> Iterator[None]:
    """Tensors require a gradient in this block as they did."""
    now = [(leaf, leaf.requires_grad) for leaf, then in flags if leaf.is_leaf and leaf.requires_grad != then]
    for leaf, is_on in now:
        leaf.requires_grad_(not is_on)
    try:
        yield
    finally:
        for leaf, is_on in now:
            leaf.requires_grad_(is_on)


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

"""On which tensors a value depends, read from autograd's graph."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor


def other_than(values: Sequence[Tensor], given: Sequence[Tensor]) -> Tensor | None:
    """A tensor that requires a gradient, on which one of the values depends but none of ``given`` stands between."""
    return next(leaves_below(values, given), None)


def leaves_below(values: Sequence[Tensor], given: Sequence[Tensor]) -> Iterator[Tensor]:
    """Every such tensor. A tensor of :func:`begins` stands between as well."""
    known = {id(tensor) for tensor in given}
    seen = {tensor.grad_fn for tensor in given}
    todo = []
    for value in values:
        if not value.requires_grad:
            continue
        if value.grad_fn is None:
            if id(value) not in known:
                yield value
        elif value.grad_fn not in seen:
            seen.add(value.grad_fn)
            todo.append(value.grad_fn)
    while todo:
        node: Any = todo.pop()
        leaf: Tensor | None = getattr(node, "variable", None)
        if leaf is not None and id(leaf) not in known:
            yield leaf
        if node.name() == _COPY and _BEGINS in node.metadata:
            continue
        for following, _ in node.next_functions:
            if following is not None and following not in seen:
                seen.add(following)
                todo.append(following)


_COPY, _BEGINS = "CloneBackward0", "begins"


def begins(tensor: Tensor) -> Tensor:
    """A differentiable copy, which :func:`leaves_below` does not look behind."""
    found = tensor.clone()
    node: Any = found.grad_fn
    if node is not None:
        node.metadata[_BEGINS] = True
    return found

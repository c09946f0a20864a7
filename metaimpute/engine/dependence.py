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


def computed_before(loss: Tensor, since: int, here: Sequence[Tensor], origin: Sequence[Tensor]) -> bool:
    """Whether a loss uses a tensor that was computed before, and from the first weights of a loop.

    Args:
        since: autograd's sequence number at which the loss's own computation began. here: the weights in place, which it uses by
            right. origin: the first weights, leaves, from which all later ones come.
    """
    own = {id(leaf.grad_fn) for leaf in here if leaf.grad_fn is not None}
    at_the_start = {id(leaf) for leaf in here if leaf.grad_fn is None}
    first = {id(leaf) for leaf in origin}
    first_nodes = {id(leaf.grad_fn) for leaf in origin if leaf.grad_fn is not None}
    todo: list[tuple[Any, bool]] = [(loss.grad_fn, False)]
    seen: set[tuple[int, bool]] = set()
    kept = []  # a node's id is its own as long as it is alive
    while todo:
        node, old = todo.pop()
        if node is None or (id(node), old) in seen:
            continue
        seen.add((id(node), old))
        kept.append(node)
        if id(node) in first_nodes and (old or id(node) not in own):
            return True
        leaf = getattr(node, "variable", None)
        if leaf is not None:
            if id(leaf) in first and (old or id(leaf) not in at_the_start):
                return True
            continue
        if not old and id(node) in own:
            continue
        earlier = old or node._sequence_nr() < since
        todo += [(below, earlier) for below, _ in node.next_functions]
    return False

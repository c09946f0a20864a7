"""On which tensors a value depends, read from autograd's graph."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


def other_than(values: Sequence[Tensor], given: Sequence[Tensor]) -> Tensor | None:
    """A tensor that requires a gradient, on which one of the values depends but none of ``given`` stands between."""
    known = {id(tensor) for tensor in given}
    seen = {tensor.grad_fn for tensor in given}
    todo = []
    for value in values:
        if not value.requires_grad:
            continue
        if value.grad_fn is None:
            if id(value) not in known:
                return value
        elif value.grad_fn not in seen:
            seen.add(value.grad_fn)
            todo.append(value.grad_fn)
    while todo:
        node = todo.pop()
        leaf: Tensor | None = getattr(node, "variable", None)
        if leaf is not None and id(leaf) not in known:
            return leaf
        for following, _ in node.next_functions:
            if following is not None and following not in seen:
                seen.add(following)
                todo.append(following)
    return None

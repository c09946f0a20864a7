"""Trees of tensors: parameters, couplings and hyperparameters are nested dicts, lists and tuples of tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

Tree = Any
A = TypeVar("A")

__all__ = [
    "Tree", "as_leaves", "cosine", "differentiable", "detach", "dot", "gradient", "norm", "tensors",
    "tree_flatten", "tree_map", "tree_unflatten", "vjp_through", "with_tensors", "zeros_like",
]  # fmt: skip


def differentiable(leaf: object) -> bool:
    """Whether a leaf is a floating-point or complex tensor, so that a derivative with respect to it makes sense."""
    return isinstance(leaf, Tensor) and (leaf.is_floating_point() or leaf.is_complex())


def tensors(tree: Tree) -> list[Tensor]:
    """The differentiable leaves, in tree order; other leaves (ints, masks, None) are passed over."""
    return [leaf for leaf in tree_flatten(tree)[0] if differentiable(leaf)]


def with_tensors(tree: Tree, values: Sequence[Tensor | None]) -> Tree:
    """The same tree with its differentiable leaves replaced, in order, by ``values``."""
    leaves, spec = tree_flatten(tree)
    replacement = iter(values)
    return tree_unflatten([next(replacement) if differentiable(leaf) else leaf for leaf in leaves], spec)


def detach(tree: Tree) -> Tree:
    return tree_map(lambda leaf: leaf.detach() if isinstance(leaf, Tensor) else leaf, tree)


def as_leaves(tree: Tree) -> Tree:
    """Fresh autograd leaves that share the values' storage; the caller's own graph is left out."""
    return tree_map(lambda leaf: leaf.detach().requires_grad_() if differentiable(leaf) else leaf, tree)


def zeros_like(tree: Tree) -> Tree:
    return tree_map(lambda leaf: torch.zeros_like(leaf) if differentiable(leaf) else leaf, tree)


def dot(left: Tree, right: Tree) -> Tensor:
    """Inner product over all differentiable leaves. Accumulated in the leaves' own precision."""
    products = [(a * b).sum() for a, b in zip(tensors(left), tensors(right), strict=True)]
    return torch.stack(products).sum() if products else torch.zeros(())


def norm(tree: Tree) -> Tensor:
    """Euclidean norm over all differentiable leaves."""
    leaves = tensors(tree)
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(leaves))) if leaves else torch.zeros(())


def cosine(left: Tree, right: Tree) -> Tensor:
    """Cosine of the angle between two trees; 0 when either is zero."""
    scale = norm(left) * norm(right)
    return torch.where(scale > 0, dot(left, right) / scale.clamp_min(torch.finfo(scale.dtype).tiny), 0.0)


def gradient(
    output: Tensor, inputs: Tree, *, create_graph: bool = False, retain_graph: bool | None = None, unused: str = "zeros"
) -> Tree:
    """``d output / d inputs`` by reverse mode, in the shape of ``inputs``.

    Args:
        unused: ``"zeros"`` materialises the gradient of inputs that ``output`` does not depend on; ``"none"`` leaves None,
            which is how ``torch.optim`` recognises a parameter that took no part and must not move.
    """
    leaves = tensors(inputs)
    wanted = [leaf for leaf in leaves if leaf.requires_grad]
    if not wanted or not output.requires_grad:
        grads: list[Tensor | None] = [None] * len(leaves)
    else:
        found = iter(
            torch.autograd.grad(output, wanted, create_graph=create_graph, retain_graph=retain_graph, allow_unused=True)
        )
        grads = [next(found) if leaf.requires_grad else None for leaf in leaves]
    if unused == "zeros":
        grads = [torch.zeros_like(leaf) if g is None else g for g, leaf in zip(grads, leaves, strict=True)]
    return with_tensors(inputs, grads)


def vjp_through(outputs: Tree, cotangents: Tree, inputs: Tree) -> Tree:
    """``cotangents^T d outputs / d inputs`` by reverse mode; zeros where an input has no influence."""
    pairs = [
        (out, cot)
        for out, cot in zip(tensors(outputs), tensors(cotangents), strict=True)
        if out.requires_grad
    ]  # fmt: skip
    leaves = tensors(inputs)
    if not pairs:
        return zeros_like(inputs)
    grads = torch.autograd.grad(
        [out for out, _ in pairs], leaves, grad_outputs=[cot for _, cot in pairs], allow_unused=True
    )
    filled = [torch.zeros_like(leaf) if g is None else g for g, leaf in zip(grads, leaves, strict=True)]
    return with_tensors(inputs, filled)


def map_tensors(function: Callable[[Tensor], Tensor], tree: Tree) -> Tree:
    return tree_map(lambda leaf: function(leaf) if differentiable(leaf) else leaf, tree)

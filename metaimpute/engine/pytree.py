"""Trees of tensors: parameters, couplings and hyperparameters are nested dicts, lists and tuples of tensors.

Dicts, lists and tuples, which an inner step goes through several times, are walked here, those that hold nothing but leaves in
one go; other kinds (named tuples, registered classes) by torch's pytrees, which mean the same and take ten times as long.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.autograd.graph import _engine_run_backward
from torch.utils import _pytree

from .ambient import has_tangent

Tree = Any
A = TypeVar("A")

# types that are leaves at a glance; others, a tensor's subclasses among them, are looked at one by one
_LEAVES = frozenset({Tensor, torch.nn.Parameter, type(None), int, float, bool, str})

__all__ = [
    "Tree",
    "as_leaves",
    "cosine",
    "differentiable",
    "detach",
    "dot",
    "filled",
    "gradient",
    "leaf_of",
    "leaves_of",
    "map_tensors",
    "none_as_zeros",
    "norm",
    "tensors",
    "tree_map",
    "vjp_through",
    "with_tensors",
    "zeros_like",
]


def differentiable(leaf: object) -> bool:
    """Whether a leaf is a floating-point or complex tensor, so that a derivative with respect to it makes sense."""
    return isinstance(leaf, Tensor) and (leaf.is_floating_point() or leaf.is_complex())


def leaves_of(tree: Tree) -> list[Any]:
    """All leaves, in tree order: whatever is no dict, list, tuple or registered kind of tree."""
    found: list[Any] = []
    _collect(tree, found)
    return found


def _collect(tree: Tree, found: list[Any]) -> None:
    kind = type(tree)
    if kind is dict or kind is list or kind is tuple:
        parts = tree.values() if kind is dict else tree
        if _LEAVES.issuperset(map(type, parts)):
            found.extend(parts)
        else:
            for part in parts:
                _collect(part, found)
    elif kind in _LEAVES or isinstance(tree, Tensor | int | float | str):
        found.append(tree)
    else:
        found.extend(_pytree.tree_leaves(tree))


def filled(tree: Tree, leaves: Iterable[Any]) -> Tree:
    """A tree of the same shape with other leaves, in order."""
    if type(tree) is dict and _LEAVES.issuperset(map(type, tree.values())):
        return dict(zip(tree, leaves, strict=True))
    return _filled(tree, iter(leaves))


def _filled(tree: Tree, leaves: Iterator[Any]) -> Tree:
    kind = type(tree)
    if kind in _LEAVES:
        return next(leaves)
    if kind is dict:
        return {name: _filled(part, leaves) for name, part in tree.items()}
    if kind is list:
        return [_filled(part, leaves) for part in tree]
    if kind is tuple:
        return tuple([_filled(part, leaves) for part in tree])
    if isinstance(tree, Tensor | int | float | str):
        return next(leaves)
    own, spec = _pytree.tree_flatten(tree)
    return _pytree.tree_unflatten([next(leaves) for _ in own], spec)


def tree_map(function: Callable[..., Any], tree: Tree, *others: Tree) -> Tree:
    """The function of every leaf, and of those at its place in other trees of the same shape."""
    if others:
        return _pytree.tree_map(function, tree, *others)
    kind = type(tree)
    if kind in _LEAVES:
        return function(tree)
    if kind is dict:
        return {name: tree_map(function, part) for name, part in tree.items()}
    if kind is list:
        return [tree_map(function, part) for part in tree]
    if kind is tuple:
        return tuple([tree_map(function, part) for part in tree])
    if isinstance(tree, Tensor | int | float | str):
        return function(tree)
    return _pytree.tree_map(function, tree)


def tensors(tree: Tree) -> list[Tensor]:
    """The differentiable leaves, in tree order; other leaves (ints, masks, None) are passed over."""
    return [leaf for leaf in leaves_of(tree) if differentiable(leaf)]


def with_tensors(tree: Tree, values: Iterable[Tensor | None]) -> Tree:
    """The same tree with its differentiable leaves replaced, in order, by ``values``."""
    replacement = iter(values)
    return tree_map(lambda leaf: next(replacement) if differentiable(leaf) else leaf, tree)


def detach(tree: Tree) -> Tree:
    return tree_map(lambda leaf: leaf.detach() if isinstance(leaf, Tensor) else leaf, tree)


def as_leaves(tree: Tree) -> Tree:
    """Fresh autograd leaves that share the values' storage; the caller's own graph is left out."""
    return tree_map(lambda leaf: leaf.detach().requires_grad_() if differentiable(leaf) else leaf, tree)


def leaf_of(tensor: Tensor) -> Tensor:
    """A fresh autograd leaf; a dual number stays one, so that an open level of forward mode sees through it."""
    if not has_tangent(tensor):
        return tensor.detach().requires_grad_()
    found = forward_ad.unpack_dual(tensor)
    dual: Tensor = forward_ad.make_dual(found.primal.detach().requires_grad_(), found.tangent)
    return dual


def zeros_like(tree: Tree) -> Tree:
    return tree_map(lambda leaf: torch.zeros_like(leaf) if differentiable(leaf) else leaf, tree)


def _nothing(tree: Tree) -> Tensor:
    leaves = [leaf for leaf in leaves_of(tree) if isinstance(leaf, Tensor)]
    return torch.zeros((), device=leaves[0].device if leaves else "cpu")


def _on_one_device(numbers: Sequence[Tensor]) -> list[Tensor]:
    """A tree may be spread over devices; on one, nothing is copied."""
    return [number.to(numbers[0].device) for number in numbers]


def dot(left: Tree, right: Tree) -> Tensor:
    """Inner product over all differentiable leaves, accumulated in their own precision; of complex ones its real part.

    Autograd's gradient g of a complex leaf is such that ``Re(conj(g) v)`` is the slope along v.
    """
    pairs = zip(tensors(left), tensors(right), strict=True)
    products = [(a.conj() * b).real.sum() if a.is_complex() else (a * b).sum() for a, b in pairs]
    return torch.stack(_on_one_device(products)).sum() if products else _nothing(left)


def norm(tree: Tree) -> Tensor:
    """Euclidean norm over all differentiable leaves."""
    leaves = tensors(tree)
    if not leaves:
        return _nothing(tree)
    lengths = leaves[0] if len(leaves) == 1 else torch.stack(_on_one_device(torch._foreach_norm(leaves)))
    found: Tensor = torch.linalg.vector_norm(lengths)
    return found


def cosine(left: Tree, right: Tree) -> Tensor:
    """Cosine of the angle between two trees; 0 when either is zero."""
    scale = norm(left) * norm(right)
    return torch.where(scale > 0, dot(left, right) / scale.clamp_min(torch.finfo(scale.dtype).tiny), 0.0)


def gradient(
    output: Tensor, inputs: Tree, *, create_graph: bool = False, retain_graph: bool | None = None, unused: str = "zeros",
    cotangent: Tensor | None = None,
) -> Tree:  # fmt: skip
    """``d output / d inputs`` by reverse mode, in the shape of ``inputs``.

    Args:
        unused: ``"zeros"`` materialises the gradient of inputs that ``output`` does not depend on; ``"none"`` leaves None,
            which is how ``torch.optim`` recognises a parameter that took no part and must not move.
        cotangent: what the gradient is multiplied by; default 1.
    """
    leaves = leaves_of(inputs)
    wants = [isinstance(leaf, Tensor) and leaf.requires_grad for leaf in leaves]
    found: Iterator[Tensor | None] = itertools.repeat(None)
    if output.requires_grad and any(wants):
        wanted = [leaf for leaf, wants_one in zip(leaves, wants, strict=True) if wants_one]
        retain_graph = create_graph if retain_graph is None else retain_graph
        found = iter(_of_scalar(output, wanted, cotangent, retain_graph, create_graph))
    slopes = [
        next(found) if wants_one else None if differentiable(leaf) else leaf
        for leaf, wants_one in zip(leaves, wants, strict=True)
    ]
    if unused == "zeros":
        slopes = [
            torch.zeros_like(p) if g is None and differentiable(p) else g for g, p in zip(slopes, leaves, strict=True)
        ]
    return filled(inputs, slopes)


def _of_scalar(
    output: Tensor, inputs: list[Tensor], cotangent: Tensor | None, retain_graph: bool, create_graph: bool
) -> tuple[Tensor | None, ...]:
    """``torch.autograd.grad`` of a real number, without what it looks at first, which takes as long as a small loss."""
    if output.is_complex() or output.ndim or type(output) is not Tensor:
        return torch.autograd.grad(output, inputs, cotangent, retain_graph, create_graph, allow_unused=True)
    found: tuple[Tensor | None, ...] = _engine_run_backward(
        (output,), (torch.ones_like(output) if cotangent is None else cotangent,), retain_graph, create_graph, tuple(inputs),
        allow_unreachable=True, accumulate_grad=False,
    )  # fmt: skip
    return found


def vjp_through(outputs: Tree, cotangents: Tree, inputs: Tree) -> Tree:
    """``cotangents^T d outputs / d inputs`` by reverse mode; zeros where an input has no influence."""
    pairs = [(out, cot) for out, cot in zip(tensors(outputs), tensors(cotangents), strict=True) if out.requires_grad]
    leaves = tensors(inputs)
    if not pairs:
        return zeros_like(inputs)
    grads = torch.autograd.grad(
        [out for out, _ in pairs], leaves, grad_outputs=[cot for _, cot in pairs], allow_unused=True
    )
    return with_tensors(
        inputs, [torch.zeros_like(leaf) if g is None else g for g, leaf in zip(grads, leaves, strict=True)]
    )


def none_as_zeros(grads: Tree, values: Tree) -> Tree:
    """Zeros where the gradient was None, so that the tree can serve as a direction."""
    pairs = zip(leaves_of(grads), leaves_of(values), strict=True)
    return filled(values, [g if g is not None else torch.zeros_like(v) if differentiable(v) else v for g, v in pairs])


def map_tensors(function: Callable[[Tensor], Tensor], tree: Tree) -> Tree:
    return tree_map(lambda leaf: function(leaf) if differentiable(leaf) else leaf, tree)

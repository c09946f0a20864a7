"""What the engine is handed, checked: trees of tensors, lists of batches, losses that change nothing."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils._pytree import keystr, tree_flatten_with_path

from .ambient import CannotDifferentiate
from .pytree import Tree, differentiable, leaves_of, tensors, tree_map

Function = TypeVar("Function", bound=Callable[..., Any])


def renamed(**new_names: str) -> Callable[[Function], Function]:
    """Arguments that were called otherwise: the old names go on working, with a DeprecationWarning that says the new one."""

    def around(function: Function) -> Function:
        @functools.wraps(function)
        def call(*args: Any, **given: Any) -> Any:
            for old, new in new_names.items():
                if old in given:
                    if new in given:
                        raise TypeError(f"{function.__name__}() was given {new} and {old}, its former name")
                    warnings.warn(
                        f"{function.__name__}(): {old}= is called {new}= now", DeprecationWarning, stacklevel=2
                    )
                    given[new] = given.pop(old)
            return function(*args, **given)

        return call  # type: ignore[return-value]  # of the same signature, which a TypeVar cannot say

    return around


def batches_of(batches: Any) -> Sequence[Any]:
    """Inner batches as a list: a list as it is, anything else as the one batch of every step.

    Raises:
        CannotDifferentiate: for a loader or an iterator, which would give other batches at each look.
    """
    loads = isinstance(batches, torch.utils.data.DataLoader | set | frozenset) or hasattr(batches, "__next__")
    return list_of_batches(batches) if isinstance(batches, list) or loads else [batches]


def list_of_batches(batches: Any) -> Sequence[Any]:
    """The inner batches.

    Raises:
        CannotDifferentiate: for what has no length or cannot be indexed; a loader would give other batches at each look.
    """
    if isinstance(batches, Sequence) and not isinstance(batches, str):
        return batches
    raise CannotDifferentiate(
        f"inner batches are a list with one batch for all steps or one per step, not a {type(batches).__name__}; of a "
        "loader take list(itertools.islice(loader, steps))"
    )


def _leaf_name(path: Any) -> str:
    return keystr(path) or "itself"


def _ordinary(leaf: object) -> bool:
    """A dense tensor, or what plainly has no gradient: a whole number, a word, None."""
    if isinstance(leaf, Tensor):
        return leaf.layout is torch.strided and not leaf.is_meta and not leaf.is_quantized
    return leaf is None or isinstance(leaf, str | int | bytes)


def require_tensors(which: str, tree: Tree) -> None:
    """Checks that every leaf is something a gradient can be handed back for, or plainly carries none.

    Raises:
        CannotDifferentiate: naming the leaf, for a number, an array, a module or an object, whose gradient would be missing.
    """
    if all(map(_ordinary, leaves_of(tree))):
        return
    for path, leaf in tree_flatten_with_path(tree)[0]:
        kind, where = type(leaf).__name__, f"{which} {_leaf_name(path)}".replace(" itself", "")
        if isinstance(leaf, Tensor) and not _ordinary(leaf):
            if leaf.layout is not torch.strided:
                raise CannotDifferentiate(f"{where} is a sparse tensor; pass its values, or .to_dense()")
            raise CannotDifferentiate(
                f"{where} is a {'meta' if leaf.is_meta else 'quantised'} tensor without values to move"
            )
        if _ordinary(leaf):
            continue
        if isinstance(leaf, torch.nn.ParameterDict | torch.nn.ParameterList):
            way = f"pass dict({kind.lower()})" if isinstance(leaf, torch.nn.ParameterDict) else "pass list(parameters)"
        elif isinstance(leaf, torch.nn.Module):
            way = "pass FunctionalModel(module).params"
        elif isinstance(leaf, float | complex):
            way = "make it a tensor, or leave it to the loss's own closure where it is a constant"
        elif type(leaf).__module__ == "numpy":
            way = "pass torch.as_tensor(array)"
        elif isinstance(leaf, Iterator):
            way = "it is used up by one look; pass a list or dict of tensors"
        else:
            way = "pass a dict of its tensors, or register it with torch.utils._pytree.register_dataclass or register_pytree_node"
        raise CannotDifferentiate(f"{where} is a {kind}, which has no gradient here: {way}")


def ordinary(tree: Tree) -> Tree:
    """Tensors that can be differentiated and stepped: none made under ``inference_mode``, none whose entries share a place."""
    return tree_map(lambda leaf: _ordinary_tensor(leaf) if isinstance(leaf, Tensor) else leaf, tree)


def _ordinary_tensor(leaf: Tensor) -> Tensor:
    if leaf.layout is torch.strided and leaf.is_contiguous() and not leaf.is_inference():
        return leaf
    shares = leaf.layout is torch.strided and any(
        n > 1 and step == 0 for n, step in zip(leaf.shape, leaf.stride(), strict=True)
    )
    return leaf.clone(memory_format=torch.contiguous_format) if shares or leaf.is_inference() else leaf


class unchanged:  # a context manager, spelt as those of contextlib
    """Checks that a loss leaves its arguments as they are.

    Args:
        leaves: the trees' tensors, where they are at hand.

    Raises:
        CannotDifferentiate: naming the tensor that was changed in place.
    """

    __slots__ = ("_before", "_leaves", "_trees", "_which")

    def __init__(self, which: str, *trees: Tree, leaves: list[Tensor] | None = None) -> None:
        self._which, self._trees = which, trees
        self._leaves = tensors(trees) if leaves is None else leaves

    def __enter__(self) -> None:
        self._before = [leaf._version for leaf in self._leaves]

    def __exit__(self, *raised: Any) -> None:
        if raised[0] is None and [leaf._version for leaf in self._leaves] != self._before:
            self._refuse()

    def _refuse(self) -> None:
        paths = [path for path, leaf in tree_flatten_with_path(self._trees)[0] if differentiable(leaf)]
        pairs = zip(self._leaves, self._before, strict=True)
        number = next(n for n, (leaf, version) in enumerate(pairs) if leaf._version != version)
        first, *rest = paths[number]
        place, name = "the parameters" if keystr((first,)) == "[0]" else "the coupling", keystr(tuple(rest))
        raise CannotDifferentiate(
            f"the {self._which} loss changes a tensor of {place} in place ({name or 'the tensor itself'}), so that a "
            "gradient would be taken at another point than the one it is wanted at; work on a copy, or use the "
            "operation without the underscore (an embedding's max_norm changes its weight too)"
        )

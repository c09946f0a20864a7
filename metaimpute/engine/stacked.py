"""Many inner problems in one call: parameters, couplings and batches with one more dimension in front.

Problems are independent, so the gradient of the sum of their losses is each problem's own gradient, and every estimator that
treats entries one by one works on a stack as it is: only the losses have to be mapped, which ``torch.vmap`` does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from .compiled import Compiled
from .losses import Loss
from .pytree import Tree, filled, leaves_of, tree_map

Randomness = Literal["different", "same", "error"]


def stacked(loss: Loss, randomness: Randomness = "different") -> Loss:
    """The sum over problems of ``loss``, as a loss of stacked arguments.

    ``theta``, ``c`` and the batch hold tensors ``[problems, ...]``; the result's gradient with respect to them is, row by row,
    that of each problem alone. What mixes problems is refused: a clipped gradient norm, a transform that is not said to work
    entry by entry, the inner products of ``cg``, the step length of ``finite_difference``. Structure of a
    :class:`~metaimpute.engine.losses.StructuredLoss` is not used.

    Where the loss returns ``(loss, aux)``, so does the result, with the tensors of all problems stacked in ``aux``.

    Args:
        randomness: of dropout across problems, as in ``torch.vmap``.
    """

    def total(theta: Tree, c: Tree, batch: Any) -> Any:
        trees = (theta, c, batch)
        leaves = leaves_of(trees)
        is_tensor = [isinstance(leaf, Tensor) for leaf in leaves]
        mapped = [leaf for leaf, tensor in zip(leaves, is_tensor, strict=True) if tensor]

        def one(*parts: Tensor) -> Tensor:
            given = iter(parts)
            rebuilt = [next(given) if tensor else leaf for leaf, tensor in zip(leaves, is_tensor, strict=True)]
            return loss(*filled(trees, rebuilt))

        found = torch.vmap(one, randomness=randomness)(*mapped)
        return (found[0].sum(), *found[1:]) if isinstance(found, tuple) else found.sum()

    vars(total)["stacked"] = True
    return total


def is_stacked(loss: Loss) -> bool:
    """Whether :func:`stacked` made the loss."""
    return getattr(loss.loss if isinstance(loss, Compiled) else loss, "stacked", False)


def stack(trees: Sequence[Tree]) -> Tree:
    """Trees of one shape as one tree whose tensors have a dimension more in front."""
    columns = zip(*map(leaves_of, trees), strict=True)
    return filled(
        trees[0],
        [
            torch.stack([leaf.detach() for leaf in column]) if isinstance(column[0], Tensor) else column[0]
            for column in columns
        ],
    )


def unstack(tree: Tree, number: int) -> Tree:
    """Row ``number`` of a stack."""
    return tree_map(lambda leaf: leaf[number] if isinstance(leaf, Tensor) else leaf, tree)

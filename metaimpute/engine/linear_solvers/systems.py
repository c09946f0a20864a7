"""Linear systems that are known by products: trees as vectors, solvers of one's own, masks, the diagonal as preconditioner."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...errors import UserError
from ..pytree import Tree, differentiable, leaves_of, map_tensors, tensors, with_tensors, zeros_like
from .krylov import Linear

Solver = Callable[[Callable[[Any], Any], Any], Any]


class SolverError(UserError, ValueError):
    """A linear system that a solver cannot treat, or an option that it does not have, with the way out."""


@dataclass(frozen=True)
class LinearSystem:
    """A square matrix by its products, on trees.

    Attributes:
        matvec: the product. transposed: that of its transpose, for solvers that need it.
        masks: for every tensor which of its entries are unknowns, None: all. Others stay zero, and products leave them so.
        samples: whether each product is with another sample of the matrix.
    """

    matvec: Linear
    transposed: Linear | None = None
    masks: list[Tensor] | None = None
    samples: bool = False


@dataclass(frozen=True)
class OnTrees:
    """A solver of linear systems that takes and returns trees; see :func:`on_trees`."""

    solver: Solver

    def __call__(self, matvec: Callable[[Tree], Tree], b: Tree) -> Tree:
        return self.solver(matvec, b)


def on_trees(solver: Solver) -> Solver:
    """Marks a solver for ``solve=`` as one that works on trees in the shape of the parameters.

    In them parameters on which the inner loss does not depend are zero, in flat vectors they are left out.
    """
    return OnTrees(solver)


class Vectors:
    """Trees as flat real vectors and back; a complex tensor is two real ones.

    Args:
        like: a tree of the shape that is meant. kept: for every tensor whether it is in the vector; the others are zero.
    """

    def __init__(self, like: Tree, kept: list[bool] | None = None) -> None:
        self.like, self.kept = like, [True] * len(tensors(like)) if kept is None else kept

    def flat(self, tree: Tree) -> Tensor:
        pairs = zip(tensors(tree), self.kept, strict=True)
        found = [torch.view_as_real(leaf) if leaf.is_complex() else leaf for leaf, kept in pairs if kept]
        parts = [leaf.reshape(-1).to(found[0].device) for leaf in found]
        return torch.cat(parts) if parts else torch.zeros(0, device="cpu")

    def tree(self, vector: Any) -> Tree:
        """Raises:
        SolverError: for what is no vector of the right length."""
        shape = list(self.flat(self.like).shape)
        if not isinstance(vector, Tensor) or list(vector.shape) != shape:
            found = list(vector.shape) if isinstance(vector, Tensor) else type(vector).__name__
            raise SolverError(f"solve= works on vectors of shape {shape}, not {found}; on_trees(solver) takes trees")
        pairs = list(zip(tensors(self.like), self.kept, strict=True))
        sizes = [leaf.numel() * (2 if leaf.is_complex() else 1) for leaf, kept in pairs if kept]
        parts = iter(vector.detach().split(sizes))
        leaves = []
        for leaf, kept in pairs:
            if kept and leaf.is_complex():
                part = torch.view_as_complex(next(parts).to(leaf.real).reshape(*leaf.shape, 2).contiguous())
            else:
                part = next(parts).to(leaf).reshape(leaf.shape) if kept else torch.zeros_like(leaf)
            leaves.append(part)
        return with_tensors(self.like, leaves)


def like_the_unknowns(x: Tree, b: Tree) -> Tree:
    """What a solver on trees returned, in the shape of the right side.

    Raises:
        SolverError: for another shape.
    """
    shapes = [[getattr(leaf, "shape", None) for leaf in leaves_of(t) if differentiable(leaf)] for t in (x, b)]
    if shapes[0] != shapes[1]:
        raise SolverError("solve=on_trees(...) must return a tree in the shape of the parameters")
    return with_tensors(b, tensors(x))


@dataclass(frozen=True)
class Jacobi:
    """The diagonal as preconditioner: what it is applied to is divided by it, entry by entry.

    Args:
        diagonal: a tree in the shape of the unknowns; None: estimated by ``probes`` products with random signs (Bekas,
            Kokiopoulou and Saad, 2007), drawn from ``seed``. An estimate changes the number of iterations, not the solution.
    """

    diagonal: Tree = None
    probes: int = 16
    seed: int = 0

    def made_for(self, system: LinearSystem, b: Tree, damping: float) -> Linear:
        found = self.diagonal
        if found is None:
            rng = torch.Generator(device="cpu").manual_seed(self.seed)
            total = zeros_like(b)
            for _ in range(self.probes):
                signs = map_tensors(
                    lambda leaf: torch.randint(0, 2, leaf.shape, generator=rng, device="cpu").to(leaf) * 2 - 1, b
                )
                signs = with_tensors(b, tensors(masked(signs, system.masks)))
                image = system.matvec(signs)
                pairs = zip(tensors(total), tensors(signs), tensors(image), strict=True)
                total = with_tensors(b, [t + s * i / self.probes for t, s, i in pairs])
            found = total
        largest = max(float(leaf.abs().max()) for leaf in tensors(found) if leaf.numel())
        inverse = [1 / (leaf.abs().clamp_min(1e-3 * largest) + damping) for leaf in tensors(found)]
        return lambda x: with_tensors(x, [d.to(leaf) * leaf for d, leaf in zip(inverse, tensors(x), strict=True)])


def masked(tree: Tree, masks: list[Tensor] | None) -> Tree:
    """Zeros where a mask is false."""
    if masks is None:
        return tree
    pairs = zip(tensors(tree), masks, strict=True)
    return with_tensors(tree, [torch.where(mask, leaf, torch.zeros_like(leaf)) for leaf, mask in pairs])

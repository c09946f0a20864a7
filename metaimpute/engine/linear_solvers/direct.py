"""The dense matrix and its LU factors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from ..pytree import Tree, map_tensors
from .base import LinearSolver, solvers
from .krylov import Reached
from .systems import LinearSystem, SolverError, Vectors, masked


@solvers.register("direct")
@dataclass(frozen=True)
class Direct(LinearSolver):
    """The dense matrix, a product per unknown, and its LU factors.

    Args:
        max_unknowns: refuse more than this.
    """

    preconditionable: ClassVar[bool] = False
    max_unknowns: int = 2000

    def run(self, system: LinearSystem, b: Tree, start: Tree) -> Reached:
        vectors = Vectors(b)
        right = vectors.flat(b)
        kept = vectors.flat(masked(map_tensors(torch.ones_like, b), system.masks))
        where = kept.nonzero()[:, 0]
        if len(where) > self.max_unknowns:
            raise SolverError(
                f"'direct' makes a dense matrix of {len(where):,} unknowns (max_unknowns is "
                f"{self.max_unknowns:,}); take 'cg' or 'gmres'"
            )
        matrix = right.new_empty(len(where), len(where))
        unit = torch.zeros_like(right)
        for column, place in enumerate(where.tolist()):
            unit[place] = 1.0
            matrix[:, column] = vectors.flat(system.matvec(vectors.tree(unit.clone())))[where]
            unit[place] = 0.0
        matrix.diagonal().add_(self.damping)
        bound = 0.1 / torch.finfo(matrix.dtype).eps
        condition = float(torch.linalg.cond(matrix, 1)) if bool(torch.isfinite(matrix).all()) else float("nan")
        if not condition < bound:
            raise SolverError(
                f"'direct': the matrix is singular (condition number {condition:.1g}), so the solution has no "
                "derivative here; add damping"
            )
        x = torch.zeros_like(right)
        x[where] = torch.linalg.solve(matrix, right[where])
        return Reached(vectors.tree(x), len(where))

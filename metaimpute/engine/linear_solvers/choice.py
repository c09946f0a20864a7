"""What ``solve=`` takes: a name, a solver with its options, a function of the user's, any of them with a warm start."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch

from ..pytree import Tree, detach, norm, tensors, with_tensors
from .base import LinearSolver, solvers
from .krylov import Reached
from .systems import LinearSystem, OnTrees, Solver, SolverError, Vectors, like_the_unknowns


@dataclass(frozen=True)
class Function(LinearSolver):
    """A solver of the user's, ``(matvec, b) -> x``, on flat vectors unless marked by :func:`on_trees`."""

    name: ClassVar[str] = "solve"
    preconditionable: ClassVar[bool] = False
    ends_with_an_answer: ClassVar[bool] = False
    solver: Solver | None = None

    def unfinished_words(self, residual: float, iterations: int, goal: float) -> str:
        return (
            f"the function given as solve= left a relative residual of {residual:.2g} (tolerance {goal:.2g}), so the derivative "
            "is off by as much or more; let it solve A x = b, with A the function it is given, to a smaller residual, or take "
            "one of the solvers by name"
        )

    def goal(self, b: Tree) -> float:
        return 1e-3 if self.tolerance is None else self.tolerance

    def run(self, system: LinearSystem, b: Tree, start: Tree) -> Reached:
        assert self.solver is not None
        if isinstance(self.solver, OnTrees):
            found = self.solver(lambda x: system.matvec(like_the_unknowns(x, b)), b)
            return Reached(like_the_unknowns(detach(found), b), 0)
        vectors = Vectors(b)
        x = self.solver(lambda x: vectors.flat(system.matvec(vectors.tree(x))), vectors.flat(b))
        return Reached(vectors.tree(x), 0)


@dataclass
class WarmStart:
    """A solver that begins where it ended the time before: for outer steps whose systems change little.

    Attributes:
        solver: a name, or a :class:`LinearSolver`. last: the last solutions, one of each kind of system.
    """

    solver: str | LinearSolver = "cg"
    last: dict[str, Tree] = field(default_factory=dict)

    def clear(self) -> None:
        self.last.clear()

    def solve(self, system: LinearSystem, b: Tree, kind: str) -> Tree:
        """The solution, which is kept for the next system of its kind whose unknowns have the same shapes."""
        before = self.last.get(kind)
        same = before is not None and [t.shape for t in tensors(before)] == [t.shape for t in tensors(b)]
        start = [old.to(new) for old, new in zip(tensors(before), tensors(b), strict=True)] if same else None
        found = linear_solver(self.solver).solve(system, b, None if start is None else with_tensors(b, start))
        if bool(torch.isfinite(norm(found))):
            self.last[kind] = detach(found)
        return found


Solving = Solver | LinearSolver | WarmStart  # what solve= takes


def linear_solver(solve: object) -> LinearSolver:
    """The solver that ``solve=`` names or is.

    Raises:
        UnknownName: for a name that none has. SolverError: for what is none.
    """
    if isinstance(solve, LinearSolver):
        return solve
    if isinstance(solve, str):
        return solvers.get(solve)()
    if isinstance(solve, type) and issubclass(solve, LinearSolver):
        return solve()
    if callable(solve):
        return Function(solver=solve)
    raise SolverError(
        f"solve= takes a name ({', '.join(solvers)}), a linear solver or a function (matvec, b) -> x, not {solve!r}"
    )

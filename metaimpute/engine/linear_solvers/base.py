"""What solvers of linear systems share: their options and what is checked of an answer.

A system is known by its products (:class:`LinearSystem`). A solver is a frozen value; the algorithms are in :mod:`.krylov`. An
answer that is not finite is refused; one whose residual is above its tolerance is warned of, refused or let pass, as
``unfinished`` says.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from ..pytree import Tree, norm, tensors
from ..registry import Registry
from .krylov import Linear, Reached, axpy
from .systems import Jacobi, LinearSystem, SolverError, masked

Unfinished = Literal["warn", "refuse", "allow"]
_NO_SOLUTION = 1e-2  # a relative residual that rounding does not leave where there is a solution
_TOLERANCES = {torch.float64: 1e-10, torch.float32: 1e-5}


solvers: Registry[type[LinearSolver]] = Registry("linear solver")


@dataclass(frozen=True)
class LinearSolver:
    """What the solvers share.

    Args:
        max_iterations: None: twice the number of unknowns, at least 20 and at most 1,000.
        tolerance: relative residual ``|A x - b| / |b|`` to be reached; None: 1e-10 in float64, 1e-5 in float32, else 1e-2.
        damping: added to the diagonal. unfinished: what is done about a residual above ten times the tolerance.
        preconditioner: ``tree -> tree`` in the shape of the unknowns, about the inverse of the matrix; ``"jacobi"`` or
            :class:`Jacobi`: its diagonal's.
    """

    name: ClassVar[str] = ""
    takes_samples: ClassVar[bool] = False
    preconditionable: ClassVar[bool] = True
    ends_with_an_answer: ClassVar[bool] = True  # after as many iterations as unknowns, but for rounding
    max_iterations: int | None = None
    tolerance: float | None = None
    damping: float = 0.0
    preconditioner: Linear | Jacobi | Literal["jacobi"] | None = None
    unfinished: Unfinished = "warn"

    def __post_init__(self) -> None:
        most = self.max_iterations
        if most is not None and (not isinstance(most, int) or isinstance(most, bool) or most < 1):
            raise SolverError(f"'{self.name}' needs max_iterations to be a whole number of at least 1, not {most!r}")
        if self.tolerance is not None and not self.tolerance >= 0:
            raise SolverError(f"'{self.name}' needs a tolerance of at least 0, not {self.tolerance!r}")
        if not self.damping >= 0:
            raise SolverError(f"'{self.name}' needs a damping of at least 0, not {self.damping!r}")
        if self.unfinished not in ("warn", "refuse", "allow"):
            raise SolverError(f"unfinished= is 'warn', 'refuse' or 'allow', not {self.unfinished!r}")
        if self.preconditioner is not None and not self.preconditionable:
            raise SolverError(f"'{self.name}' takes no preconditioner; 'cg', 'gmres' and 'bicgstab' do")
        if not (
            self.preconditioner in (None, "jacobi")
            or callable(self.preconditioner)
            or isinstance(self.preconditioner, Jacobi)
        ):
            raise SolverError(f"preconditioner= is 'jacobi', Jacobi(...) or a function, not {self.preconditioner!r}")

    def most(self, b: Tree) -> int:
        return self.max_iterations or min(1000, max(20, 2 * sum(leaf.numel() for leaf in tensors(b))))

    def goal(self, b: Tree) -> float:
        kinds = [leaf.dtype for leaf in tensors(b)]
        return max(_TOLERANCES.get(kind, 1e-2) for kind in kinds) if self.tolerance is None else self.tolerance

    def prepared(self, system: LinearSystem, b: Tree) -> Linear | None:
        how = Jacobi() if self.preconditioner == "jacobi" else self.preconditioner
        if isinstance(how, Jacobi):
            return how.made_for(system, b, self.damping)
        assert how is None or callable(how)
        return how

    def damped(self, matvec: Linear) -> Linear:
        return (lambda x: axpy(self.damping, x, matvec(x))) if self.damping else matvec

    def run(self, system: LinearSystem, b: Tree, start: Tree) -> Reached:
        """The algorithm. ``system`` is not damped yet."""
        raise TypeError(f"{type(self).__name__} does not define run()")

    def residual(self, system: LinearSystem, x: Tree, b: Tree) -> float:
        """Relative residual of the system that is solved."""
        return float(norm(axpy(-1.0, self.damped(system.matvec)(x), b)) / norm(b))

    def refusal(self, flaw: str | None) -> str | None:
        """Why an answer with this flaw is none."""
        return None

    def solve(self, system: LinearSystem, b: Tree, start: Tree = None) -> Tree:
        """The solution.

        Args:
            start: where to begin; default zero.

        Raises:
            SolverError: for a matrix that is not for this solver, an answer that is not finite, and an unfinished one where that
                is to be refused.
        """
        if system.samples and not self.takes_samples:
            raise SolverError(
                f"'{self.name}' needs products with one matrix, and batches= makes each product another batch's; take 'neumann' "
                "or 'richardson', or leave batches= out"
            )
        b = masked(b, system.masks)
        length = float(norm(b))
        if length == 0.0 or not length < float(
            "inf"
        ):  # nothing to solve, or a gradient that is NaN goes on, to be seen
            return b
        found = self.run(system, b, None if start is None else masked(start, system.masks))
        reason = self.refusal(found.flaw)
        if reason is not None:
            raise SolverError(f"'{self.name}': {reason}")
        x = masked(found.x, system.masks)
        if not torch.isfinite(norm(x)):
            reason = self.refusal("growth")
            raise SolverError(
                f"'{self.name}': the answer is not finite; "
                + (
                    reason
                    or "the matrix is singular or the iteration diverges; take 'direct' or 'gmres', or add damping"
                )
            )
        if self.unfinished != "allow" and not system.samples:
            self._check(system, x, b, found)
        return x

    def _check(self, system: LinearSystem, x: Tree, b: Tree, found: Reached) -> None:
        left = self.residual(system, x, b)
        if left <= 10 * self.goal(b):
            return
        at_its_end = found.iterations < self.most(b) or found.iterations >= sum(leaf.numel() for leaf in tensors(b))
        if left > _NO_SOLUTION and at_its_end and self.unfinished == "warn" and self.ends_with_an_answer:
            raise SolverError(
                f"'{self.name}': the matrix is singular for this right side (after {found.iterations} iterations the relative "
                f"residual is {left:.2g} and stays so), so the solution has no derivative here; add damping, or see support="
            )
        said = self.unfinished_words(left, found.iterations, self.goal(b))
        if self.unfinished == "refuse":
            raise SolverError(said)
        warnings.warn(said, stacklevel=2)

    def unfinished_words(self, residual: float, iterations: int, goal: float) -> str:
        """The sentence for an answer whose residual is above the tolerance."""
        return (
            f"'{self.name}' ended after {iterations} iterations with a relative residual of {residual:.2g} (tolerance "
            f"{goal:.2g}), so the derivative is off by as much or more; raise max_iterations, take 'direct' where the "
            "unknowns are few, add damping, or state a tolerance that will do"
        )

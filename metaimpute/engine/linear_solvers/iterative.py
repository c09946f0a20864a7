"""Iterative solvers, each with its options and what its failures mean; the algorithms are in :mod:`.krylov`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..pytree import Tree, norm
from .base import LinearSolver, solvers
from .krylov import Reached, axpy, bicgstab, conjugate_gradient, gmres, neumann_series, richardson
from .systems import LinearSystem, SolverError


@solvers.register("cg")
@dataclass(frozen=True)
class CG(LinearSolver):
    """Conjugate gradients: symmetric positive definite matrices, such as a Hessian at a minimum."""

    def run(self, system: LinearSystem, b: Tree, start: Tree) -> Reached:
        return conjugate_gradient(
            system.matvec, b, self.most(b), self.goal(b), self.damping, self.prepared(system, b), start, True
        )

    def refusal(self, flaw: str | None) -> str | None:
        if flaw == "asymmetry":
            return "the matrix is not symmetric; take 'gmres' or 'normal_cg'"
        if flaw == "curvature":
            return (
                "the matrix is not positive definite, so the solution is no strict minimum; take 'gmres' or 'normal_cg', or add "
                "damping"
            )
        return "the preconditioner is not positive definite" if flaw == "breakdown" else None


@solvers.register("normal_cg")
@dataclass(frozen=True)
class NormalCG(LinearSolver):
    """Conjugate gradients on ``(A^T A + damping I) x = A^T b``: any matrix, at the square of its condition number."""

    preconditionable: ClassVar[bool] = False

    def _normal(self, system: LinearSystem, x: Tree) -> Tree:
        if system.transposed is None:
            raise SolverError("'normal_cg' needs products with the transpose, which this system has not; take 'gmres'")
        return system.transposed(system.matvec(x))

    def run(self, system: LinearSystem, b: Tree, start: Tree) -> Reached:
        if system.transposed is None:
            raise SolverError("'normal_cg' needs products with the transpose, which this system has not; take 'gmres'")
        right = system.transposed(b)
        return conjugate_gradient(
            lambda x: self._normal(system, x), right, 2 * self.most(b), self.goal(b), self.damping, None, start
        )

    def residual(self, system: LinearSystem, x: Tree, b: Tree) -> float:
        if not self.damping or system.transposed is None:
            return super().residual(system, x, b)
        right = system.transposed(b)
        return float(norm(axpy(-1.0, self.damped(lambda x: self._normal(system, x))(x), right)) / norm(right))


@solvers.register("gmres")
@dataclass(frozen=True)
class GMRES(LinearSolver):
    """Generalised minimal residuals: any matrix; keeps ``restart`` vectors.

    Args:
        restart: vectors after which it begins anew.
    """

    restart: int = 50

    def run(self, system: LinearSystem, b: Tree, start: Tree) -> Reached:
        return gmres(
            self.damped(system.matvec), b, self.most(b), self.goal(b), self.restart, self.prepared(system, b), start
        )

    def refusal(self, flaw: str | None) -> str | None:
        if flaw != "breakdown":
            return None
        return "the matrix is singular for this right side, so the solution has no derivative here; add damping, or see support="


@solvers.register("bicgstab")
@dataclass(frozen=True)
class BiCGSTAB(LinearSolver):
    """Stabilised biconjugate gradients: any matrix, a handful of vectors, no guarantee."""

    def run(self, system: LinearSystem, b: Tree, start: Tree) -> Reached:
        return bicgstab(self.damped(system.matvec), b, self.most(b), self.goal(b), self.prepared(system, b), start)

    def refusal(self, flaw: str | None) -> str | None:
        return "it broke down, as it may; take 'gmres'" if flaw == "breakdown" else None


@solvers.register("neumann")
@dataclass(frozen=True)
class NeumannSeries(LinearSolver):
    """``alpha sum_j (I - alpha A)^j b``: converges for eigenvalues within ``1 / alpha`` of ``1 / alpha``.

    Args:
        alpha: the factor; None: 1, which fits a fixed point of a contraction.
    """

    takes_samples: ClassVar[bool] = True
    preconditionable: ClassVar[bool] = False
    ends_with_an_answer: ClassVar[bool] = False
    alpha: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.alpha is not None and not self.alpha > 0:
            raise SolverError(f"'{self.name}' needs alpha above 0, not {self.alpha!r}")

    def run(self, system: LinearSystem, b: Tree, start: Tree) -> Reached:
        matvec, goal = self.damped(system.matvec), 0.0 if system.samples else self.goal(b)
        most, alpha = self.max_iterations or 1000, 1.0 if self.alpha is None else self.alpha
        if start is None:
            return neumann_series(matvec, b, most, alpha, goal)
        left = axpy(-1.0, matvec(start), b)
        if float(norm(left)) <= goal * float(norm(b)):
            return Reached(start, 0)
        found = neumann_series(matvec, left, most, alpha, goal * float(norm(b) / norm(left)))
        return found._replace(x=axpy(1.0, found.x, start))

    def refusal(self, flaw: str | None) -> str | None:
        if flaw != "growth":
            return None
        return (
            "it diverges, since alpha is above 2 / (largest eigenvalue) or an eigenvalue is negative; lower alpha, or take "
            "'gmres'"
        )


@solvers.register("richardson")
@dataclass(frozen=True)
class Richardson(NeumannSeries):
    """``x <- x + alpha (b - A x)``: gradient descent on the system; with ``batches=`` its stochastic form."""

    def run(self, system: LinearSystem, b: Tree, start: Tree) -> Reached:
        goal = 0.0 if system.samples else self.goal(b)
        alpha = 1.0 if self.alpha is None else self.alpha
        return richardson(self.damped(system.matvec), b, self.max_iterations or 1000, alpha, goal, start)

"""Solvers of linear systems by name, with their options, what is checked of an answer, warm starts and preconditioners.

A system is known by its products (:class:`LinearSystem`). A solver is a frozen value; the algorithms are in :mod:`.krylov`. An
answer that is not finite is refused; one whose residual is above its tolerance is warned of, refused or let pass, as
``unfinished`` says.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch

from .krylov import Linear, Reached, axpy, bicgstab, conjugate_gradient, gmres, neumann_series, richardson
from .linear_systems import Jacobi, LinearSystem, OnTrees, Solver, SolverError, Vectors, like_the_unknowns, masked
from .pytree import Tree, detach, map_tensors, norm, tensors, with_tensors
from .registry import Registry

Unfinished = Literal["warn", "refuse", "allow"]
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
        said = (
            f"'{self.name}' ended after {found.iterations} iterations with a relative residual of {left:.2g} (tolerance "
            f"{self.goal(b):.2g}), so the derivative is off by as much or more; raise max_iterations, take 'direct', add "
            "damping, or state a tolerance that will do"
        )
        if self.unfinished == "refuse":
            raise SolverError(said)
        warnings.warn(said, stacklevel=2)


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


@dataclass(frozen=True)
class Function(LinearSolver):
    """A solver of the user's, ``(matvec, b) -> x``, on flat vectors unless marked by :func:`on_trees`."""

    name: ClassVar[str] = "solve"
    preconditionable: ClassVar[bool] = False
    solver: Solver | None = None

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

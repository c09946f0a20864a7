"""Implicit differentiation at the end of the inner steps: as if they had converged.

At a stationary point of the inner problem, ``e(theta, c) = grad_theta L + weight_decay * theta = 0`` and

    dC_H/dc = direct - x^T d e/dc      with      (d e/dtheta) x = v,   v = dC_H/dtheta_k

(Bengio 2000; Lorraine, Vicol and Duvenaud, AISTATS 2020). The two estimators differ in how they solve for x. Neither keeps
anything of the trajectory. The point's dependence on the start, the learning rate and the momentum is zero there.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..ambient import outside_transforms
from ..linear_solvers import LinearSolver, Solving, WarmStart
from ..linear_solvers.krylov import axpy, conjugate_gradient, neumann_series
from ..linear_solvers.systems import LinearSystem, OnTrees, SolverError, Vectors, like_the_unknowns
from ..optimizers import Hyper, InnerOptimizer, hyper_as_leaves, hyper_tensors
from ..optimizers.base import is_zero
from ..products import product
from ..pytree import (
    Tree,
    as_leaves,
    detach,
    dot,
    gradient,
    map_tensors,
    norm,
    tensors,
    with_tensors,
    zeros_like,
)
from ..unroll import BilevelMap, run
from .base import Estimator, EstimatorError, register_estimator, whole_number
from .result import HypergradientResult


def require_stationary(rule: InnerOptimizer, name: str) -> None:
    """Raises:
    EstimatorError: for a rule that does not end at a stationary point of the inner loss (with its weight decay)."""
    reason = rule.options.get("not_stationary")
    if reason:
        raise EstimatorError(
            f"'{name}' needs a stationary point of the inner loss, and {reason}; take 'exact' or 'mixed'"
        )
    if rule.options.get("decoupled") and not is_zero(rule.hyper.get("weight_decay", 0.0)):
        raise EstimatorError(f"'{name}' needs a stationary point; decoupled weight decay has none, set it to 0")


class Stationary:
    """The inner problem's stationarity condition at ``theta``, with the last inner step's batch and noise.

    Parameters on which the inner loss does not depend do not move, so they are no unknowns of the system.
    """

    def __init__(self, problem: BilevelMap, theta: Tree, moving: list[bool], name: str) -> None:
        rule = problem.optimizer
        self.problem, self.theta, self.c, self.t, self.name = problem, theta, detach(problem.c), problem.moves[-1], name
        self.moving = moving
        self.decay = rule.hyper.get("weight_decay", 0.0)
        self.sign = -1.0 if rule.options.get("maximize") else 1.0

    def _decays(self, decay: Any) -> list[Any]:
        if isinstance(decay, Mapping):
            return [decay[name] for name in self.theta]
        return [decay] * len(tensors(self.theta))

    def among_moving(self, x: Tree) -> Tree:
        """Zero for parameters that do not move."""
        pairs = zip(tensors(x), self.moving, strict=True)
        return with_tensors(x, [u if moves else torch.zeros_like(u) for u, moves in pairs])

    def product(self, x: Tree) -> tuple[Tree, Tree]:
        """``(d e/dtheta) x`` and ``x^T d e/dc`` from one product."""
        found = product(self.problem, self.t, self.theta, self.c, x, point="end")
        pairs = zip(tensors(found.theta), tensors(x), self._decays(detach(self.decay)), strict=True)
        curved = with_tensors(found.theta, [self.sign * h + d * u for h, u, d in pairs])
        crossed = map_tensors(lambda g: self.sign * g, found.c)
        return self.among_moving(curved), crossed

    def hyper_gradient(self, x: Tree) -> dict[str, Any]:
        """Zero but for the weight decay, on which the stationary point depends, in the shape of its entries."""
        hyper = hyper_as_leaves(self.problem.optimizer.hyper)
        wanted = hyper_tensors(hyper)
        if "weight_decay" not in wanted:
            zeros: Hyper = zeros_like(detach(wanted))
            return zeros
        parts = zip(tensors(x), tensors(self.theta), self._decays(hyper["weight_decay"]), strict=True)
        force = torch.stack([(d * u * p).sum() for u, p, d in parts]).sum()
        found: Hyper = gradient(-force, wanted)
        return found


class Implicit(Estimator):
    """What the implicit estimators share: take the steps, solve, multiply."""

    exact = False
    staged = True
    start_path = False
    dropped = "the trajectory: exact only where the inner steps have converged"

    diverged: ClassVar[str] = "the solution of its linear system is not finite"

    def check_rule(self, rule: InnerOptimizer) -> None:
        super().check_rule(rule)
        require_stationary(rule, self.name)

    def solve(self, system: Stationary, v: Tree) -> tuple[Tree, dict[str, Any]]:
        raise TypeError(f"{type(self).__name__} does not define solve()")

    def differentiate(self, problem: BilevelMap) -> HypergradientResult:
        hyper = detach(problem.optimizer.hyper)
        end = run(problem, detach(problem.theta_0), detach(problem.c), hyper, mode="none")
        theta = as_leaves(end.params)
        c_leaf = as_leaves(problem.c)
        outer = problem.outer(theta, c_leaf)
        direct = gradient(outer, {"theta": theta, "c": c_leaf})
        system = Stationary(problem, detach(end.params), end.moving, self.name)
        v = system.among_moving(direct["theta"])
        x, diagnostics = self.solve(system, v)
        reached, crossed = system.product(x)
        residual = norm(axpy(-1.0, v, reached)) / norm(v).clamp_min(torch.finfo(outer.dtype).tiny)
        if torch.isfinite(norm(v)) and not torch.isfinite(norm(x)):
            raise EstimatorError(f"'{self.name}': {self.diverged}")
        return HypergradientResult(
            grad_c=axpy(-1.0, crossed, direct["c"]),
            grad_theta_0=None,
            grad_optimizer=system.hyper_gradient(x),
            outer_loss=outer.detach(),
            theta_k=detach(end.params),
            first_gradient=end.first_gradient,
            diagnostics={"inner_losses": end.losses, "residual": residual, **diagnostics},
        )


@register_estimator("neumann")
class Neumann(Implicit):
    """Implicit differentiation, the inverse Hessian as ``m`` terms of its Neumann series.

    ``x = a sum_{j=0..m} (I - a H)^j v``; converges for ``0 < a < 2 / largest eigenvalue`` (Lorraine et al., 2020, Algorithm 3).
    Cost of k steps: k + 1 plain ones and m + 1 Hessian products of about 3. Reports the relative residual ``|H x - v| / |v|``.

    Args:
        m: terms beyond the first. alpha: the step a; None takes the inner learning rate.
    """

    m: int = 10
    alpha: float | None = None
    diverged: ClassVar[str] = (
        "its series grows beyond all numbers, since alpha is above 2 / (largest eigenvalue of the inner Hessian), or the Hessian "
        "has a negative one; lower alpha, take more inner steps, or use cg"
    )

    def __post_init__(self) -> None:
        whole_number("neumann", "m", self.m, 0)
        if self.alpha is not None and not self.alpha > 0:
            raise EstimatorError(f"'neumann' needs alpha above 0, not {self.alpha}")

    def solve(self, system: Stationary, v: Tree) -> tuple[Tree, dict[str, Any]]:
        alpha = system.problem.optimizer.hyper.get("lr", {}) if self.alpha is None else self.alpha
        if isinstance(alpha, Mapping) or (isinstance(alpha, Tensor) and alpha.ndim):
            raise EstimatorError("'neumann' with several inner learning rates needs alpha, one step for its series")
        alpha = float(alpha.detach() if isinstance(alpha, Tensor) else alpha)
        found = neumann_series(lambda x: system.product(x)[0], v, self.m, alpha)
        grew = found.flaw == "growth"
        if grew:
            warnings.warn(
                "the Neumann series grows: alpha is above 2 / (largest eigenvalue of the inner Hessian) or the "
                "Hessian has a negative "
                "one, so the estimate means nothing; lower alpha, take more inner steps, or use cg",
                stacklevel=2,
            )
        return found.x, {"terms": self.m, "series_grows": grew}


@register_estimator("cg")
class ConjugateGradient(Implicit):
    """Implicit differentiation, ``(H + damping I) x = v`` by at most ``m`` conjugate-gradient steps.

    (Hestenes and Stiefel 1952; Pedregosa, ICML 2016; Rajeswaran et al., "iMAML", NeurIPS 2019.) Cost of k steps: k + 1 plain
    ones and m + 1 Hessian products of about 3. Reports iterations, the relative residual ``|H x - v| / |v|`` (without the
    damping), and whether it met negative curvature, where it stops: H is then not that of a minimum.

    Args:
        m: most iterations. tolerance: relative residual at which to stop. damping: added to the Hessian.
    """

    mixes = True
    m: int = 10
    tolerance: float = 1e-10
    damping: float = 0.0
    diverged: ClassVar[str] = "the inner Hessian is singular or not finite at the end of the inner steps; add damping"

    def __post_init__(self) -> None:
        whole_number("cg", "m", self.m, 1)
        if self.damping < 0:
            raise EstimatorError(f"'cg' needs a damping of at least 0, not {self.damping}")

    def solve(self, system: Stationary, v: Tree) -> tuple[Tree, dict[str, Any]]:
        if not torch.isfinite(dot(v, v)):
            return v, {"iterations": 0, "negative_curvature": False}
        found = conjugate_gradient(lambda x: system.product(x)[0], v, self.m, self.tolerance, self.damping)
        negative = found.flaw == "curvature"
        if negative:
            warnings.warn(
                "the inner Hessian has a direction of no positive curvature, so the inner steps have reached no "
                "minimum and the "
                "implicit estimate means little; take more inner steps, or add damping",
                stacklevel=2,
            )
        return found.x, {"iterations": found.iterations, "negative_curvature": negative}


@dataclass(frozen=True)
class Solved(Implicit):
    """Implicit differentiation with ``H x = v`` left to a solver; :func:`with_solver`.

    Args:
        solver: ``(matvec, b) -> x`` for a matrix that is known by its products; on flat real vectors ``[unknowns]`` (a complex
            parameter is two of them) unless marked by :func:`on_trees`; or one of :mod:`..linear_solvers`. Its relative residual
            ``|H x - v| / |v|`` is reported, and above ``tolerance`` warned of.
    """

    name: ClassVar[str] = "solve"
    diverged: ClassVar[str] = "the solver's answer is not finite"
    solver: Solving
    tolerance: float = 0.01

    def solve(self, system: Stationary, v: Tree) -> tuple[Tree, dict[str, Any]]:
        def matvec(x: Tree) -> Tree:
            outside_transforms("a product with the inner Hessian")
            return system.product(x)[0]

        masks = [torch.full(u.shape, m, device=u.device) for u, m in zip(tensors(v), system.moving, strict=True)]
        hessian = LinearSystem(matvec, matvec, masks)
        try:
            if isinstance(self.solver, WarmStart):
                return self.solver.solve(hessian, v, "hessian"), {}
            if isinstance(self.solver, LinearSolver):
                return self.solver.solve(hessian, v), {}
            if isinstance(self.solver, OnTrees):
                found = self.solver(lambda x: matvec(like_the_unknowns(x, v)), v)
                return system.among_moving(like_the_unknowns(detach(found), v)), {}
            vectors = Vectors(v, system.moving)
            found = self.solver(lambda x: vectors.flat(matvec(vectors.tree(x))), vectors.flat(v))
            return vectors.tree(found), {}
        except SolverError as error:
            raise EstimatorError(str(error)) from None

    def differentiate(self, problem: BilevelMap) -> HypergradientResult:
        result = super().differentiate(problem)
        residual = float(result.diagnostics["residual"])
        if not residual <= self.tolerance:
            warnings.warn(
                f"the solver given as solve= left a relative residual of {residual:.2g}, so the implicit estimate is off by as "
                "much or more",
                stacklevel=2,
            )
        return result


def with_solver(estimator: Estimator, solver: Solving) -> Estimator:
    """An implicit estimator with its linear system left to ``solver``.

    Raises:
        EstimatorError: for an estimator that solves none.
    """
    if not isinstance(estimator, Implicit):
        raise EstimatorError(f"'{estimator.name}' solves no linear system; solve= is for 'cg' and 'neumann'")
    if not (callable(solver) or isinstance(solver, LinearSolver | WarmStart)):
        raise EstimatorError(f"solve= takes a function (matvec, b) -> x or one of linear_solvers, not {solver!r}")
    return Solved(solver)

"""What any solver has found, as a differentiable function of what the problem depended on.

A solution ``x`` of ``F(x, *args) = 0``, of ``x = T(x, *args)`` or of "``objective(x, *args)`` is stationary in x" determines its
derivative by the condition alone (the implicit function theorem), whoever found it: scikit-learn, numpy, a loop under
``no_grad``. (Blondel et al., "Efficient and modular implicit differentiation", NeurIPS 2022; jaxopt's ``custom_root``.)
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._compile import _disable_dynamo

from ..ambient import CannotDifferentiate, has_tangent
from ..arguments import ordinary, require_tensors
from ..linear_solvers import LinearSolver, WarmStart, linear_solver
from ..linear_solvers.systems import Solver
from ..pytree import Tree, detach, map_tensors, tensors, with_tensors
from ..rebuilt import as_it_is
from .conditions import Solved
from .root import Batches, Root, Support
from .stationarity import gradient_of

_PLACE = torch.empty(0, device="cpu")  # made outside all transforms, within which it would be theirs


def nonzero(x: Tree) -> Tree:
    """The support of a sparse solution: a mask for every tensor, true where it is not zero."""
    return with_tensors(x, [leaf != 0 for leaf in tensors(x)])


def _condition(
    optimality_fn: Callable[..., Tree] | None,
    fixed_point_fn: Callable[..., Tree] | None,
    objective: Callable[..., Tensor] | None,
) -> tuple[Callable[..., Tree], str, str]:
    """The function that is zero at a solution, what the user calls it, and the default solver."""
    given = [one for one in (optimality_fn, fixed_point_fn, objective) if one is not None]
    if len(given) != 1 or not callable(given[0]):
        raise TypeError("implicit() takes one of optimality_fn=, fixed_point_fn= and objective=, a function (x, *args)")
    if objective is not None:
        return gradient_of(as_it_is(objective)), "the gradient of objective", "cg"
    if fixed_point_fn is not None:
        step = as_it_is(fixed_point_fn)

        def moved(x: Tree, *args: Any) -> Tree:
            after = arranged(step(x, *args), x, "fixed_point_fn")
            if [leaf.shape for leaf in tensors(after)] != [leaf.shape for leaf in tensors(x)]:
                return after
            return with_tensors(x, [a - b for a, b in zip(tensors(x), tensors(after), strict=True)])

        return moved, "x - fixed_point_fn(x)", "gmres"
    assert optimality_fn is not None
    condition = as_it_is(optimality_fn)

    def ordered(x: Tree, *args: Any) -> Tree:
        return arranged(condition(x, *args), x, "optimality_fn")

    return ordered, "optimality_fn", "gmres"


def arranged(found: Tree, like: Tree, named: str) -> Tree:
    """A condition's dicts in the order of the solution's, which go by their keys.

    Raises:
        CannotDifferentiate: for other keys.
    """
    if isinstance(like, dict) and isinstance(found, dict):
        if set(found) != set(like):
            raise CannotDifferentiate(
                f"{named} returns a dict with the keys {sorted(map(str, found))}, and the solution has {sorted(map(str, like))}"
            )
        return {key: arranged(found[key], like[key], named) for key in like}
    if isinstance(like, list | tuple) and isinstance(found, list | tuple) and len(like) == len(found):
        return [arranged(one, other, named) for one, other in zip(found, like, strict=True)]
    return found


@_disable_dynamo  # torch.compile goes on behind it
def implicit(
    solution: Tree,
    *args: Any,
    optimality_fn: Callable[..., Tree] | None = None,
    fixed_point_fn: Callable[..., Tree] | None = None,
    objective: Callable[..., Tensor] | None = None,
    solve: str | LinearSolver | WarmStart | Solver | None = None,
    tolerance: float = 1e-3,
    support: Support | None = None,
    batches: Batches | None = None,
    seed: int | None = None,
) -> Any:
    """The solution as a differentiable function of ``args``: same numbers, and ``.backward()`` goes on into every one of them.

    Right to any order in reverse mode, and in forward mode; ``torch.func``'s ``grad``, ``jvp`` and ``jacfwd`` may be around it.
    Nothing is solved before a derivative is taken, when each costs one linear system. The condition is evaluated once, to be
    checked.

    Args:
        solution: what a solver found, a tree of real tensors; any graph it has is left out. args: trees of what the condition
            depends on; leaves that are no floating-point tensors (counts, None, modules without gradients) are handed on as they
            are.
        optimality_fn: ``(x, *args) -> tree in the shape of x`` that is zero at the solution. fixed_point_fn: one that returns x
            there. objective: one that returns a number, stationary in x there. One of the three, in torch's operations.
        solve: for the linear system: ``"cg"`` (the default for an objective), ``"gmres"`` (for others), ``"normal_cg"``,
            ``"bicgstab"``, ``"neumann"``, ``"richardson"``, ``"direct"``; one with options, such as
            ``linear_solvers.CG(damping=0.1)``; a :class:`~metaimpute.engine.linear_solvers.WarmStart`; or ``(matvec, b) -> x``.
        tolerance: how far the solution may be from one, relative to 1 + its norm.
        support: ``x -> masks``; entries outside are held where they are, and only those inside are unknowns, e.g.
            :func:`nonzero`.
        batches: ``generator -> batch``: the condition is handed a batch as last argument, in every product another one, drawn
            from ``seed``; for ``"neumann"`` and ``"richardson"``. The solution is not checked then, nor the linear solver's end.
        seed: of noise inside the condition, the same in each evaluation; None draws one.

    Raises:
        CannotDifferentiate: for a solution that is none; a condition of another shape, that changes its arguments, or that uses
            a tensor which requires a gradient and is none of ``args``. NotRepeatable: for noise that no seed replays.
            SolverError, in the backward pass: for a system that the solver cannot treat.
    """
    function, named, usual = _condition(optimality_fn, fixed_point_fn, objective)
    how = solve if isinstance(solve, WarmStart) else linear_solver(usual if solve is None else solve)
    if not isinstance(tolerance, int | float) or not tolerance >= 0:
        raise CannotDifferentiate(f"tolerance= is a number of at least 0, not {tolerance!r}")
    require_tensors("the solution", solution)
    if not tensors(solution):
        raise CannotDifferentiate(
            "the solution holds no floating-point tensor; pass the real numbers that were solved for"
        )
    if any(leaf.is_complex() for leaf in tensors((solution, args))):
        raise CannotDifferentiate("implicit() takes real tensors; pass complex ones as torch.view_as_real(...)")
    if not torch.is_grad_enabled():
        return detach(solution)
    if seed is None:
        with torch._C._DisableFuncTorch():  # a number, in any transform
            seed = int(torch.randint(2**62, (), dtype=torch.int64, device="cpu"))
    with torch.inference_mode(False):
        args = ordinary(args)
        given = [leaf.detach() for leaf in tensors(ordinary(solution))]
        wrapped = torch._C._functorch.is_functorch_wrapped_tensor
        requires = [leaf.requires_grad or wrapped(leaf) or has_tangent(leaf) for leaf in tensors(args)]
        x_kind, args_kind = (map_tensors(lambda _: _PLACE, tree) for tree in (solution, args))
        around = torch._C._functorch.peek_interpreter_stack() is not None
        rest = how, tolerance, seed, support, batches, requires, named, around
        root = Root(function, x_kind, args_kind, *rest)
        found = Solved.apply(root, *given, *tensors(args))
        return with_tensors(detach(solution), list(found))


def custom_root(
    solver: object = None,
    /,
    *,
    optimality_fn: Callable[..., Tree] | None = None,
    fixed_point_fn: Callable[..., Tree] | None = None,
    objective: Callable[..., Tensor] | None = None,
    has_aux: bool = False,
    **options: Any,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorator that gives a solver ``(start, *args, **settings) -> x`` the derivative of what it solves.

    The solver runs under ``no_grad`` on detached arguments, and its result is :func:`implicit` of ``args``. The start, which a
    solution does not depend on, and keyword arguments, which the condition is not handed, must require no gradient.

    Args:
        has_aux: the solver returns ``(x, aux)``; so does the decorated one, with aux detached.
        options: ``solve``, ``tolerance``, ``support``, ``batches`` and ``seed`` of :func:`implicit`.
    """
    if solver is not None:
        raise TypeError("custom_root is called with the condition before it decorates: @custom_root(optimality_fn=...)")
    _condition(optimality_fn, fixed_point_fn, objective)

    def around(solver: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(solver)
        def call(start: Tree, *args: Any, **settings: Any) -> Any:
            if torch.is_grad_enabled() and any(leaf.requires_grad for leaf in tensors((start, settings))):
                raise CannotDifferentiate(
                    "the start or a keyword argument of the solver requires a gradient, which it would not get; detach it, or "
                    "pass it "
                    "behind the start, where the condition is handed it"
                )
            with torch.no_grad():
                found = solver(start, *detach(args), **settings)
            if has_aux and not (isinstance(found, tuple) and len(found) == 2):
                raise CannotDifferentiate(f"with has_aux=True the solver returns (x, aux), not {type(found).__name__}")
            if not has_aux and isinstance(found, tuple) and not isinstance(start, tuple):
                raise CannotDifferentiate(
                    f"the solver returns {len(found)} things from a start that is one; with has_aux=True the first is the "
                    "solution and the second is handed on"
                )
            x, aux = found if has_aux else (found, None)
            x = implicit(
                x, *args, optimality_fn=optimality_fn, fixed_point_fn=fixed_point_fn, objective=objective, **options
            )
            return (x, detach(aux)) if has_aux else x

        return call

    return around

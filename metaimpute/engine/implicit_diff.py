"""What any solver has found, as a differentiable function of what the problem depended on.

A solution ``x`` of ``F(x, *args) = 0``, of ``x = T(x, *args)`` or of "``objective(x, *args)`` is stationary in x" determines its
derivative by the condition alone (the implicit function theorem), whoever found it: scikit-learn, numpy, a loop under
``no_grad``. (Blondel et al., "Efficient and modular implicit differentiation", NeurIPS 2022; jaxopt's ``custom_root``.)
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from .ambient import CannotDifferentiate, has_tangent, holder
from .arguments import ordinary, require_tensors, unchanged
from .cuts import Cuts
from .dependence import other_than
from .implicit_systems import Condition, Map, Solved, Tensors, slopes
from .linear_solvers import LinearSolver, WarmStart, linear_solver
from .linear_systems import Solver
from .noise import derive_seed
from .pytree import Tree, detach, leaves_of, map_tensors, norm, tensors, with_tensors
from .rebuilt import as_it_is
from .repetition import NotRepeatable
from .stationarity import gradient_of

Batches = Callable[[torch.Generator], Any]
Support = Callable[[Tree], Tree]
_PLACE = torch.empty(0, device="cpu")  # made outside all transforms, within which it would be theirs


class _PlainOnly(TorchFunctionMode):
    """Refuses tensors of a transform of ``torch.func``: the condition is evaluated outside, where its arguments are plain."""

    def __init__(self, named: str) -> None:
        super().__init__()
        self.named = named

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for leaf in leaves_of((args, kwargs or {})):
            if isinstance(leaf, Tensor) and torch._C._functorch.is_functorch_wrapped_tensor(leaf):
                raise CannotDifferentiate(
                    f"{self.named} uses a tensor of a transform of torch.func that is none of the arguments, so that its "
                    "derivative "
                    "would be lost: pass it to implicit() behind the solution; a transform inside the condition is told apart "
                    "from "
                    "one around implicit() only where there is none around it, so take objective= or torch.autograd.grad there"
                )
        return func(*args, **(kwargs or {}))


def nonzero(x: Tree) -> Tree:
    """The support of a sparse solution: a mask for every tensor, true where it is not zero."""
    return with_tensors(x, [leaf != 0 for leaf in tensors(x)])


@dataclass
class Root(Condition):
    """A condition of the user's at a solution that was given. Its ``a`` are the solution's tensors, then those of the arguments.

    Attributes:
        function: ``(x, *args[, batch]) -> tree in the shape of x``, zero at the solution.
        x, args: trees in which tensors have their places and other leaves are used.
        requires: for every tensor of the arguments whether somebody waits for its derivative. transformed: whether a transform of
            ``torch.func`` is around.
    """

    function: Callable[..., Tree]
    x: Tree
    args: tuple[Any, ...]
    solver: LinearSolver | WarmStart
    tolerance: float
    seed: int
    support: Support | None
    batches: Batches | None
    requires: list[bool]
    named: str
    transformed: bool = False
    draw: int = 0
    part_of: object | None = field(default_factory=holder)

    def __post_init__(self) -> None:
        self.unknowns = self.held = len(tensors(self.x))
        self.samples = self.batches is not None

    def masks(self, a: Tensors) -> list[Tensor] | None:
        if self.support is None:
            return None
        found = [
            leaf for leaf in leaves_of(self.support(with_tensors(self.x, a[: self.held]))) if isinstance(leaf, Tensor)
        ]
        if [mask.shape for mask in found] != [leaf.shape for leaf in a[: self.held]] or any(
            m.dtype != torch.bool for m in found
        ):
            raise CannotDifferentiate(
                "support= returns a mask (a tensor of bool) for every tensor of the solution, in its shape"
            )
        return found

    def sample(self, draw: int) -> Map:
        return replace(self, draw=draw)

    def shaped(self, x: Tensors) -> Tree:
        return with_tensors(self.x, x)

    def value(self, inputs: Tensors, graph: bool = True) -> Tensors:
        x, a = inputs[: self.unknowns], inputs[self.unknowns :]
        masks = self.masks(a)
        if masks is not None:
            x = [torch.where(mask, own, given) for mask, own, given in zip(masks, x, a[: self.held], strict=True)]
        at, args = with_tensors(self.x, x), with_tensors(self.args, a[self.held :])
        batch = []
        if self.batches is not None:
            seed = derive_seed(self.seed, self.draw)
            batch = [self.batches(torch.Generator(device="cpu").manual_seed(seed))]
        with unchanged("implicit", at, args):
            found = self.function(at, *args, *batch)
        value = self._like_the_solution(found, x)
        return (
            value
            if masks is None
            else [torch.where(m, v, torch.zeros_like(v)) for m, v in zip(masks, value, strict=True)]
        )

    def _like_the_solution(self, found: Tree, x: Tensors) -> Tensors:
        value = tensors(found)
        shapes = [[list(leaf.shape) for leaf in part] for part in (value, x)]
        if shapes[0] != shapes[1]:
            what = shapes[0] if value else type(found).__name__
            raise CannotDifferentiate(
                f"{self.named} returns the tensors of the solution's shapes {shapes[1]}, as many conditions as unknowns, not "
                f"{what}"
            )
        return value

    def solution(self, a: Tensors) -> Tensors:
        with self.evaluating():
            x, args = ([leaf.detach().requires_grad_() for leaf in part] for part in (a[: self.held], a[self.held :]))
            with Cuts() as cuts, _PlainOnly(self.named) if self.transformed else contextlib.nullcontext():
                value = self._evaluated(x, [*x, *args])
            other = other_than(value, [*x, *args])
            if other is not None:
                raise CannotDifferentiate(
                    f"{self.named} uses a tensor of shape {list(other.shape)} that requires a gradient but is none of the "
                    "arguments, so "
                    "that it would "
                    "get none; pass it to implicit() behind the solution, or detach it"
                )
            if cuts.noise and not self.samples:
                with self.evaluating():  # torch's noise from its beginning
                    again = zip(self.value([*x, *x, *args]), value, strict=True)
                if any(not torch.equal(one, other) for one, other in again):
                    raise NotRepeatable(
                        f"{self.named} draws noise from {cuts.noise[0]}, which differs in every evaluation; draw it from torch's "
                        "global generator, which is replayed, or beforehand"
                    )
            self._require_a_way(value, args, cuts)
            if not self.samples:
                self._require_root(value, x)
        return [leaf.detach().clone() for leaf in x]

    def _evaluated(self, x: Tensors, a: Tensors) -> Tensors:
        try:
            return self.value([*x, *a])
        except RuntimeError as error:
            kinds = {(leaf.dtype, leaf.device) for leaf in a}
            if (
                len(kinds) < 2
                or isinstance(error, CannotDifferentiate)
                or ("dtype" not in str(error) and "device" not in str(error))
            ):
                raise
            first, rest = a[0], next(leaf for leaf in a if (leaf.dtype, leaf.device) != (a[0].dtype, a[0].device))
            raise CannotDifferentiate(
                f"the solution is {first.dtype} on {first.device} and an argument {rest.dtype} on {rest.device}, which "
                f"{self.named} cannot mix; "
                f"pass solution.to(argument)"
            ) from error

    def _require_a_way(self, value: Tensors, args: Tensors, cuts: Cuts) -> None:
        """That a derivative can come through: F depends on x, and on what it hides from autograd it depends in no other way."""
        if not any(leaf.requires_grad for leaf in value):
            raise CannotDifferentiate(
                f"{self.named} returns numbers without a graph, so nothing can be differentiated; write it in torch's "
                "operations (a solver "
                "may be anything, its condition may not)"
            )
        if not cuts.gradients:
            return
        live = [leaf for leaf in value if leaf.requires_grad]
        found = torch.autograd.grad(
            live, args, [torch.ones_like(leaf) for leaf in live], retain_graph=True, allow_unused=True
        )
        for number, (slope, waits) in enumerate(zip(found, self.requires, strict=True)):
            if slope is None and waits:
                raise CannotDifferentiate(
                    f"{self.named} cuts the gradient ({', '.join(cuts.gradients)}) and depends on tensor {number} of the "
                    "arguments in no "
                    "other way, so that it would get none; write it in torch's operations, or detach that argument"
                )

    def _require_root(self, value: Tensors, x: Tensors) -> None:
        """That the solution is one. How far it is off is estimated by ``|F|^2 / |A^T F|``, in the units of the solution."""
        size = float(norm(detach(value)))
        if size == 0.0:
            return
        if not size < float("inf"):
            raise CannotDifferentiate(f"{self.named} is not finite at the solution")
        pulled = float(norm(slopes(value, x, [leaf.detach() / size for leaf in value])))
        off = size / pulled if pulled else float("inf")
        if off > self.tolerance * (1 + float(norm(detach(x)))):
            raise CannotDifferentiate(
                f"{self.named} has norm {size:.2g} at the solution, which is about {off:.2g} away from where it is zero "
                "(allowed is tolerance "
                f"{self.tolerance:g} times 1 + the solution's norm), so that it has not this derivative; solve it to a smaller "
                "tolerance, "
                "or pass a larger tolerance="
            )


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
            x, aux = found if has_aux else (found, None)
            x = implicit(
                x, *args, optimality_fn=optimality_fn, fixed_point_fn=fixed_point_fn, objective=objective, **options
            )
            return (x, detach(aux)) if has_aux else x

        return call

    return around

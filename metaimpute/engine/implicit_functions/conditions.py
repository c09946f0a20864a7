"""Solutions of systems as differentiable values, to any order, in reverse and forward mode.

For ``R(x, a) = 0`` with ``A = dR/dx`` at the solution (the implicit function theorem)

    reverse:  a cotangent g of x becomes  - u^T dR/da  with  A^T u = g
    forward:  a tangent d of a becomes    v            with  A v = - (dR/da) d

u and v are solutions of systems themselves, of (x, a, g) and of (x, a, d), linear in what is unknown. So they are values of the
same kind, and derivatives of any order come out of these two lines.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..ambient import CannotDifferentiate
from ..linear_solvers.base import LinearSolver
from ..linear_solvers.choice import WarmStart, linear_solver
from ..linear_solvers.krylov import Linear
from ..linear_solvers.systems import LinearSystem
from ..pytree import Tree, tensors
from .maps import Map, Pulled, Pushed, Tensors, Value, linearised, row_by_row, slopes, zeros_for_none


class Condition(Map):
    """``R(x, a) = 0`` as a map of ``[*x, *a]``, with what solves it and what solves linear systems with its matrix.

    Attributes:
        solver: for linear systems with its matrix and the matrix's transpose. unknowns: number of tensors in ``x``. held: how
            many of ``a`` come first that fix the condition and are no arguments: nothing is differentiated with respect to them.
        samples: whether each product is with another batch's matrix; :meth:`sample` is then the map with another batch.
    """

    solver: LinearSolver | WarmStart
    unknowns: int
    held: int = 0
    samples: bool = False

    def solution(self, a: Tensors) -> Tensors:
        """The solution, from plain tensors to plain tensors."""
        raise TypeError(f"{type(self).__name__} does not define solution()")

    def masks(self, a: Tensors) -> list[Tensor] | None:
        """Which entries of ``x`` are unknowns; None: all."""
        return None

    def sample(self, draw: int) -> Map:
        return self

    def shaped(self, x: Tensors) -> Tree:
        """The unknowns in the shape in which a solver of linear systems is handed them."""
        return x


class Linearised(Condition):
    """A system that is linear in its unknown, of ``(x, a, b)`` with the solution x of another condition and its arguments a."""

    def __init__(self, base: Condition) -> None:
        solver = base.solver
        self.base, self.unknowns, self.seed, self.part_of = base, base.unknowns, base.seed, base.part_of
        self.solver = linear_solver(solver.solver) if isinstance(solver, WarmStart) else solver

    def split(self, a: Tensors) -> tuple[Tensors, Tensors, Tensors]:
        """``x``, ``a`` and ``b``."""
        raise TypeError(f"{type(self).__name__} does not define split()")

    def masks(self, a: Tensors) -> list[Tensor] | None:
        return self.base.masks(self.split(a)[1])

    def shaped(self, x: Tensors) -> Tree:
        return self.base.shaped(x)

    def inside(self, a: Tensors, values: Tensors) -> Tensors:
        return _inside(self.masks(a), values)


class Adjoint(Linearised):
    """``A(x, a)^T u - g = 0``, with the unknown u, of ``(x, a, g)``."""

    def split(self, a: Tensors) -> tuple[Tensors, Tensors, Tensors]:
        n = self.unknowns
        return a[:n], a[n : len(a) - n], a[len(a) - n :]

    def value(self, inputs: Tensors, graph: bool = True) -> Tensors:
        u, a = inputs[: self.unknowns], inputs[self.unknowns :]
        at, given, right = self.split(a)
        images = Pulled(self.base, [True] * len(at) + [False] * len(given)).value([*at, *given, *u], graph)
        return self.inside(a, [image - g for image, g in zip(images, right, strict=True)])

    def solution(self, a: Tensors) -> Tensors:
        at, given, right = self.split(a)
        return _solve(self.base, _system(self.base, at, given, transpose=True), right, "adjoint")


class Tangent(Linearised):
    """``A(x, a) v + (dR/da) d = 0``, with the unknown v, of ``(x, a, d)``."""

    def split(self, a: Tensors) -> tuple[Tensors, Tensors, Tensors]:
        n = self.unknowns
        half = (len(a) - n) // 2
        return a[:n], a[n : n + half], a[n + half :]

    def value(self, inputs: Tensors, graph: bool = True) -> Tensors:
        v, a = inputs[: self.unknowns], inputs[self.unknowns :]
        at, given, along = self.split(a)
        return self.inside(a, Pushed(self.base).value([*at, *given, *v, *along], graph))

    def solution(self, a: Tensors) -> Tensors:
        at, given, along = self.split(a)
        with self.evaluating():
            moved = Pushed(self.base).value([*at, *given, *map(torch.zeros_like, at), *along], graph=False)
        right = self.inside(a, [-force for force in moved])
        return _solve(self.base, _system(self.base, at, given), right, "tangent")


def _inside(masks: list[Tensor] | None, values: Tensors) -> Tensors:
    if masks is None:
        return values
    return [torch.where(mask, value, torch.zeros_like(value)) for mask, value in zip(masks, values, strict=True)]


def _solve(base: Condition, system: LinearSystem, right: Tensors, kind: str) -> Tensors:
    def on_trees(product: Linear | None) -> Linear:
        assert product is not None
        return lambda x: base.shaped(product(tensors(x)))

    whole = replace(system, matvec=on_trees(system.matvec), transposed=on_trees(system.transposed))
    b = base.shaped(right)
    with torch.no_grad():
        if isinstance(base.solver, WarmStart):
            found = base.solver.solve(whole, b, kind)
        else:
            found = base.solver.solve(whole, b)
        return [leaf.clone() for leaf in tensors(found)]


def _system(base: Condition, x: Tensors, a: Tensors, transpose: bool = False) -> LinearSystem:
    """The matrix ``A`` or its transpose at plain tensors, of one evaluation; with ``samples`` each product is another batch's."""
    at, given = [leaf.detach().requires_grad_() for leaf in x], [leaf.detach() for leaf in a]
    masks = base.masks(given)
    drawn = 0
    kept: dict[str, Any] = {}

    def value() -> Tensors:
        nonlocal drawn
        if base.samples or "value" not in kept:
            drawn += base.samples
            kept.clear()
            kept["value"] = base.sample(drawn).value([*at, *given])
        found: Tensors = kept["value"]
        return found

    def forward(along: Tensors) -> Tensors:
        found = value()
        if "forward" not in kept:
            kept["forward"] = linearised(found, at)
        image: Tensors = kept["forward"](along)
        return image

    def backward(along: Tensors) -> Tensors:
        return slopes(value(), at, along)

    def product(how: Callable[[Tensors], Tensors]) -> Callable[[Tensors], Tensors]:
        def call(along: Tensors) -> Tensors:
            with base.evaluating():
                return _inside(masks, how(_inside(masks, along)))

        return call

    both = product(forward), product(backward)
    return LinearSystem(*(both[::-1] if transpose else both), masks, base.samples)


class Solved(torch.autograd.Function):
    """The solution of a condition as a value of its arguments."""

    @staticmethod
    def forward(condition: Condition, *a: Tensor) -> tuple[Tensor, ...]:
        return tuple(condition.solution([leaf.detach() for leaf in a]))

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.condition = inputs[0]
        ctx.save_for_backward(*output, *inputs[1:])
        ctx.save_for_forward(*output, *inputs[1:])

    @staticmethod
    def vmap(info: Any, in_dims: Any, condition: Condition, *a: Tensor) -> Any:
        return row_by_row(Solved, info, in_dims, condition, a)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> Any:
        condition: Condition = ctx.condition
        wanted = [bool(need) and n >= condition.held for n, need in enumerate(ctx.needs_input_grad[1:])]
        if any(torch._C._functorch.is_legacy_batchedtensor(g) for g in cotangents):
            raise CannotDifferentiate(
                "implicit() takes no is_grads_batched=True; torch.func.jacrev and jacfwd do the same"
            )
        if condition.samples and torch.is_grad_enabled():
            raise CannotDifferentiate(
                "with batches= each product is another batch's, and there is no one function to differentiate twice; leave "
                "batches= out"
            )
        u = Solved.apply(Adjoint(condition), *ctx.saved_tensors, *cotangents)
        pull = Pulled(condition, [False] * condition.unknowns + wanted)
        found = iter(Value.apply(pull, *ctx.saved_tensors, *[-leaf for leaf in u]))
        return None, *(next(found) if wants else None for wants in wanted)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        condition: Condition = ctx.condition
        if condition.samples:
            raise CannotDifferentiate("batches= is for reverse mode; leave it out for forward mode")
        n = condition.unknowns
        along = zeros_for_none(ctx.saved_tensors[n:], tangents[1:])
        return Solved.apply(Tangent(condition), *ctx.saved_tensors, *along)

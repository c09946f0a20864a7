"""k inner optimisation steps as one differentiable function of the start, the coupling and the hyperparameters."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple, cast

import torch
from torch import Tensor

from ..streams import Stream
from .ambient import CannotDifferentiate, double_differentiable, outside_transforms
from .arguments import batches_of, renamed, require_tensors, unchanged
from .compiled import Compiled
from .given import GivenRule
from .losses import Loss, StructuredLoss, scalar
from .memory import Auto, MemoryPolicy, Store, parse_memory
from .noise import derive_seed, fixed_rng
from .operators import require_second_derivative
from .optimizers import Hyper, InnerOptimizer, take_step
from .optimizers.base import is_closed, require_rule
from .optimizers.transforms import require_factors
from .pytree import (
    Tree,
    as_leaves,
    detach,
    differentiable,
    filled,
    gradient,
    leaf_of,
    leaves_of,
    tensors,
    with_tensors,
)
from .repetition import Ledger, rebuilding
from .replay import BadMemoryPolicy, Step
from .sharded import UNSEEN, refusing_shards, sharded_rule, shards_of

OUTER_STREAM = Stream.OUTER
WAY = (
    "write it with model(params, x) of the parameters that it is handed, outside no_grad, without detach() (metaimpute.inner is "
    "for loops that call the module itself)"
)
NO_REACH = f"the inner loss depends on none of the parameters, in any step, so that training moves nothing; {WAY}"
NO_OUTER_REACH = f"the outer loss depends on neither the parameters nor the coupling; {WAY}"
TAKEN = "taken"  # the point from which a step is taken, or at which the outer loss is wanted


Differentiation = Literal["full", "first_order", "none"]


class Batches(NamedTuple):
    """The data of one bilevel evaluation: one inner batch (used at every step) or one per step, and an outer one."""

    inner: Sequence[Any]
    outer: Any


class Trajectory(NamedTuple):
    """Where k inner steps lead.

    Attributes:
        params: ``theta_k``. state: the optimiser's state after k steps.
        losses: k scalars, each step's inner loss before the step. first_gradient: inner gradient at ``theta_0``, detached.
        moving: for every tensor of the parameters whether the last step's loss depended on it.
    """

    params: Tree
    state: Tree
    losses: list[Tensor]
    first_gradient: Tree
    moving: list[bool] = []  # a NamedTuple's default


@dataclass(frozen=True)
class BilevelMap:
    """``(theta_0, c, hyper) -> outer_loss(theta_k, c)`` as a deterministic function: everything an estimator may see.

    Noise inside a loss is drawn from a seed that depends on the step alone, so evaluating a step again, in whatever
    mode of differentiation, sees the same noise; ``ledger`` notices what is not repeated all the same.

    A step is one call of the rule's ``update``, or several where the rule has several stages; ``t`` numbers the calls.
    """

    inner_loss: Loss
    outer_loss: Loss
    theta_0: Tree
    c: Tree
    batches: Batches
    optimizer: InnerOptimizer
    steps: int = 1
    memory: MemoryPolicy = field(default_factory=Store)
    seed: int = 0
    wrt_start: bool = True
    ledger: Ledger = field(default_factory=Ledger, compare=False, repr=False)

    @property
    def moves(self) -> range:
        """Numbers of all calls of ``update``: steps times stages."""
        return range(self.steps * len(self.optimizer.stages))

    def step_of(self, t: int) -> int:
        """The inner step that call ``t`` is part of."""
        return t // len(self.optimizer.stages)

    def first_of_each_step(self, values: Sequence[Any]) -> list[Any]:
        """Of one value per call those of each step's first gradient."""
        stages = self.optimizer.stages
        return list(values[stages.index(True) :: len(stages)])

    def inner_batch(self, t: int) -> Any:
        return self.batches.inner[self.step_of(t) if len(self.batches.inner) > 1 else 0]

    def inner(
        self, t: int, theta: Tree, c: Tree, point: str | None = TAKEN, leaves: list[Tensor] | None = None
    ) -> Tensor:
        """Inner loss of call ``t``; a constant 0 in a stage without a gradient.

        Args:
            leaves: the tensors of ``theta`` and ``c``, where they are at hand.
            point: names where in parameter space ``theta`` is, so that a second evaluation there is held against the first;
                None: nowhere that comes again.

        Raises:
            NotScalar, CannotDifferentiate, NotRepeatable: for a loss that is no number, changes its arguments or its modules.
        """
        loss, batch, step = self.inner_loss, self.inner_batch(t), self.step_of(t)
        if not self.optimizer.stages[t % len(self.optimizer.stages)]:
            return tensors(theta)[0].real.new_zeros(())
        with self.ledger.evaluation("inner", t), unchanged("inner", theta, c, leaves=leaves):
            if isinstance(loss, StructuredLoss) and loss.split is not None:
                own, own_c = loss.enter(theta, c)
                with fixed_rng(derive_seed(self.seed, step, 0)), loss.within():
                    free = loss.split.free(own, batch)
                with fixed_rng(derive_seed(self.seed, step, 1)), loss.within():
                    coupled = scalar(loss.split.coupled(own, own_c, batch), "inner")
                value = loss.leave(scalar(free + coupled, "inner"))
            else:
                coupled = None
                with fixed_rng(derive_seed(self.seed, step)):
                    value = scalar(loss(theta, c, batch), "inner")
        if point is not None:
            self.ledger.note("inner", t, value, point)
            if coupled is not None:
                self.ledger.note("coupled", t, coupled, point)
        return value

    def coupled(self, t: int, theta: Tree, c: Tree, point: str | None = TAKEN) -> Tensor:
        """The part of step ``t``'s inner loss that depends on the coupling; all of it when the loss is not split."""
        loss, batch = self.inner_loss, self.inner_batch(t)
        with_gradient = self.optimizer.stages[t % len(self.optimizer.stages)]
        if not isinstance(loss, StructuredLoss) or loss.split is None or not with_gradient:
            return self.inner(t, theta, c, point)
        theta, c = loss.enter(theta, c)
        noise = fixed_rng(derive_seed(self.seed, self.step_of(t), 1))
        with rebuilding(), unchanged("inner", theta, c), noise, loss.within():
            value = scalar(loss.split.coupled(theta, c, batch), "inner")
        if point is not None:
            self.ledger.note("coupled", t, value, point)
        return loss.leave(value)

    def outer(self, theta: Tree, c: Tree, point: str | None = TAKEN) -> Tensor:
        noise = fixed_rng(derive_seed(self.seed, OUTER_STREAM))
        with self.ledger.evaluation("outer", 0), unchanged("outer", theta, c), noise:
            value = scalar(self.outer_loss(theta, c, self.batches.outer), "outer")
        if torch.is_grad_enabled() and not value.requires_grad and any(p.requires_grad for p in tensors((theta, c))):
            raise CannotDifferentiate(NO_OUTER_REACH)
        if point is not None:
            self.ledger.note("outer", 0, value, point)
        return value

    def drawing(self, t: int) -> contextlib.AbstractContextManager[Any]:
        """Around call ``t`` of ``update``: what the rule draws is the same whenever the call is made."""
        update = self.optimizer.update
        if is_closed(update.function if isinstance(update, GivenRule) else update):  # which draws nothing
            return contextlib.nullcontext()
        return fixed_rng(derive_seed(self.seed, t, 2))

    def value(self, theta_0: Tree | None = None, c: Tree | None = None, hyper: Hyper | None = None) -> Tensor:
        """The map itself, without its derivative: what finite differences are taken of."""
        theta_0 = self.theta_0 if theta_0 is None else theta_0
        c = self.c if c is None else c
        fresh = replace(self, ledger=Ledger())  # another point than the one before
        with double_differentiable():
            end = run(fresh, detach(theta_0), detach(c), detach(hyper or self.optimizer.hyper), mode="none")
            with torch.no_grad():
                return fresh.outer(end.params, c)


def of_its_own(leaf: Any) -> Any:
    """The leaf with a name of its own in autograd's graph: what else is done with the same tensor is no part of its gradient."""
    if not differentiable(leaf):
        return leaf
    return (leaf if leaf.requires_grad else leaf_of(leaf)).view_as(leaf)


def run(
    problem: BilevelMap, theta_0: Tree, c: Tree, hyper: Hyper, *, mode: Differentiation = "full", start: int = 0,
    stop: int | None = None, state: Tree = None, closed: bool = False,
) -> Trajectory:  # fmt: skip
    """Carries out inner steps ``start .. stop-1`` (default: all) from ``theta_0`` under the problem's memory policy.

    Args:
        state: the optimiser's state before step ``start``; made by its ``init`` when ``start`` is 0.
        closed: refuse an inner loss that depends on other tensors which require a gradient, where a memory policy would
            lose that dependence. Estimators need not: they return no such gradient.
        mode: ``"full"`` keeps the graph of every gradient; ``"first_order"`` treats inner gradients as constants but
            keeps the graph of the update rule; ``"none"`` keeps no graph.
    """
    require_factors(problem.optimizer, problem.steps if stop is None else stop)
    losses: dict[int, Tensor] = {}
    first: dict[int, Tree] = {}
    moved: dict[int, list[bool]] = {}
    can_move = [differentiable(leaf) for leaf in leaves_of(theta_0)]
    renewed: dict[int, list[bool]] = {}  # leaves that a step has made, which nothing but the steps after it uses

    stages, leading = len(problem.optimizer.stages), problem.optimizer.stages.index(True)
    is_compiled = isinstance(problem.inner_loss, Compiled)

    def move_compiled(t: int, carry: tuple[Tree, Tree], closure: tuple[Tree, Hyper]) -> tuple[Tree, Tree]:
        (theta, state), (c, hyper) = carry, closure
        before, watched, rule = (state, theta), problem.optimizer.update, problem.optimizer
        if isinstance(watched, GivenRule):  # a program is handed the rule as it is
            rule = replace(rule, update=watched.function)
        with fixed_rng(derive_seed(problem.seed, problem.step_of(t)), shared_generator=True):
            theta, state, losses[t], slopes = cast(Compiled, problem.inner_loss).step(
                rule, theta, state, c, hyper, problem.inner_batch(t), constant=mode != "full"
            )
        if isinstance(watched, GivenRule):
            watched.require_closed(with_tensors(theta, slopes), *before, hyper)
        problem.ledger.note("inner", t, losses[t], TAKEN)
        if t == leading:
            first[0] = with_tensors(theta, slopes)
        moved[t] = [slope is not None for slope in slopes]
        return theta, state

    def take(number: int, carry: tuple[Tree, Tree], closure: tuple[Tree, Hyper]) -> tuple[Tree, Tree]:
        for t in range(stages * (start + number), stages * (start + number + 1)):
            one = move_compiled if is_compiled and problem.optimizer.stages[t % stages] else move
            carry = one(t, carry, closure)
        return carry

    def move(t: int, carry: tuple[Tree, Tree], closure: tuple[Tree, Hyper]) -> tuple[Tree, Tree]:
        (theta, state), (c, hyper) = carry, closure
        tracked = mode == "full" and torch.is_grad_enabled()
        flat = leaves_of(theta)
        with torch.enable_grad():
            if not tracked:
                at = as_leaves(flat)
            elif t - 1 in renewed:
                at = [p if new else of_its_own(p) for p, new in zip(flat, renewed[t - 1], strict=True)]
            else:
                at = [of_its_own(p) for p in flat]
            start_of_step = filled(theta, at)
            at_c = c if tracked else detach(c)
            leaves = [p for p, can in zip(at, can_move, strict=True) if can] + tensors(at_c)
            loss = problem.inner(t, start_of_step, at_c, leaves=leaves)
            # a step that is taken first and rebuilt later takes the rebuilt one's formulas, so that both are the same to the bit
            slopes = gradient(loss, at, create_graph=mode == "full", unused="none")
            if not tracked:
                at, start_of_step, slopes = flat, theta, detach(slopes)
            elif t not in problem.ledger.checked:
                require_second_derivative(loss, at)
                problem.ledger.checked.add(t)
        losses[t] = loss.detach()
        if t == leading:
            first[0] = detach(filled(theta, slopes))
        if problem.optimizer.stages[t % stages]:
            moved[t] = [slope is not None for slope, can in zip(slopes, can_move, strict=True) if can]
        with problem.drawing(t):
            end, state = take_step(problem.optimizer, slopes, state, start_of_step, hyper)
        renewed[t] = [after is not before for after, before in zip(end, at, strict=True)]
        return filled(theta, end), state

    step = Step(take, _kind(problem), must_be_closed=closed, verify=problem.ledger.verify)
    if is_compiled and isinstance(problem.memory, Auto):
        raise BadMemoryPolicy("memory 'auto' cannot measure inside a compiled step; use checkpoint(n) or recompute")
    with torch.set_grad_enabled(mode != "none"):
        carry = (theta_0, problem.optimizer.init(theta_0) if start == 0 else state)
        policy = problem.memory if mode == "full" else Store()
        theta_k, state = policy.scan(step, carry, (problem.steps if stop is None else stop) - start, (c, hyper))
    if closed and mode == "full" and not any(map(any, moved.values())):
        raise CannotDifferentiate(NO_REACH)
    return Trajectory(
        theta_k,
        state,
        [losses[t] for t in sorted(losses) if t % stages == leading],
        first.get(0),
        moved[max(moved)] if moved else [],
    )


def _kind(problem: BilevelMap) -> Any:
    """Names steps that need the same memory, where a policy may measure them."""
    if isinstance(problem.memory, Store):
        return None
    loss = problem.inner_loss
    whole = loss.whole if isinstance(loss, StructuredLoss | Compiled) else loss
    shapes = tuple(tuple(leaf.shape) for leaf in tensors(list(problem.batches.inner[:1])))
    return getattr(whole, "__code__", type(whole)), problem.optimizer.label, shapes


@renamed(theta_0="params", c="coupling")
def unroll(
    inner_loss: Loss,
    params: Tree,
    coupling: Tree = None,
    batches: Any = None,
    optimizer: InnerOptimizer | None = None,
    steps: int = 1,
    *,
    memory: str | MemoryPolicy | None = None,
    differentiable: bool = True,
    seed: int = 0,
) -> Trajectory:
    """k inner steps whose end point autograd can differentiate with respect to start, coupling and hyperparameters.

    Args:
        inner_loss: ``(params, coupling, batch) -> scalar``.
        params: start; pass tensors that require grad to differentiate with respect to them. coupling: the same.
        batches: None, one batch for every step, or a list or tuple with one per step.
        optimizer: required; e.g. ``sgd(0.1)``.
        memory: how the reverse pass finds its intermediate values; default :class:`~metaimpute.engine.memory.Store`. All
            others carry gradients to start, coupling and hyperparameters alone, and refuse an inner loss that uses
            another tensor which requires a gradient.
        differentiable: False runs plain training steps with no graph.
        seed: noise of step ``t`` is drawn from a seed derived from this and ``t``.
    """
    outside_transforms("an unroll")
    optimizer = require_rule(optimizer, "optimizer")
    require_tensors("the start", params)
    require_tensors("the coupling", coupling)
    shards = shards_of(inner_loss)
    if shards is not None:
        optimizer = sharded_rule(optimizer, shards)
    batches = batches if isinstance(batches, tuple) else batches_of(batches)
    problem = BilevelMap(
        inner_loss,
        lambda *_: torch.zeros((), device="cpu"),
        params,
        coupling,
        Batches(batches, None),
        optimizer,
        steps,
        Store() if memory is None else parse_memory(memory),
        seed,
    )
    if steps < 1 or len(batches) not in (1, steps):
        raise ValueError(f"{len(batches)} batches for {steps} steps; give at least 1 step, and 1 batch or one per step")
    with double_differentiable(), refusing_shards(UNSEEN) if shards is None else contextlib.nullcontext():
        return run(problem, params, coupling, optimizer.hyper, mode="full" if differentiable else "none", closed=True)

"""Scans whose reverse pass rebuilds graphs from snapshots: where the snapshots lie, and how the pass is carried out."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import UserError
from .ambient import CannotDifferentiate, double_differentiable, holder
from .dependence import other_than
from .pytree import Tree, as_leaves, detach, filled, leaves_of, tensors, tree_map, vjp_through, with_tensors
from .repetition import GIVE_THE_SAME, LEAVE_ALONE, NotRepeatable, rebuilding, require_same_end


def _nothing() -> None:
    pass


@dataclass(frozen=True)
class Step:
    """One inner step as a memory policy sees it: ``step(t, carry, closure) -> carry``, and what a policy has to know of it.

    Attributes:
        take: the step itself. kind: steps of one kind and shapes need the same memory. must_be_closed: whether it may depend on
            no other tensor that requires a gradient than the carry and the closure. verify: checks, after a reverse pass, that
            the steps rebuilt were the steps taken.
    """

    take: Callable[[int, Tree, Tree], Tree]
    kind: Hashable = None
    must_be_closed: bool = True
    verify: Callable[[], None] = _nothing

    def __call__(self, t: int, carry: Tree, closure: Tree) -> Tree:
        return self.take(t, carry, closure)


class BadMemoryPolicy(UserError, ValueError):
    """A memory policy that cannot be read, has an impossible argument, or a budget that cannot be met."""


def plain_scan(step: Step, carry: Tree, steps: int, closure: Tree) -> Tree:
    """``carry = step(t, carry, closure)`` for every t, and nothing else."""
    for t in range(steps):
        carry = step(t, carry, closure)
    return carry


@dataclass(frozen=True)
class Plan:
    """Which snapshots are held and how many steps' graphs are built at once.

    Steps are reversed in groups of ``group``. With ``slots`` snapshots (the first carry included) for ``n`` groups the
    snapshots are placed by binomial checkpointing, which needs the fewest repeated steps possible (Griewank and Walther,
    "Algorithm 799: revolve", 2000). ``tail``: the graph of the last so many steps is kept from the forward pass, so that
    those are not repeated. ``offload``: snapshots of tensors on an accelerator wait in the host's memory.
    """

    group: int
    slots: int
    tail: int = 0
    offload: bool = False


def reachable(slots: int, repeats: int) -> int:
    """Groups that ``slots`` snapshots can reverse when no group is run forward more than ``repeats`` times."""
    return math.comb(slots + repeats, slots) if repeats >= 0 else 0


def split(groups: int, slots: int) -> int:
    """How far the next snapshot lies ahead, for the fewest repeated groups in all. Needs 2 slots and 2 groups at least."""
    repeats = 0
    while reachable(slots, repeats) < groups:
        repeats += 1
    return min(reachable(slots, repeats - 1), groups - reachable(slots - 1, repeats - 1))


def last_snapshot(groups: int, slots: int) -> int:
    """Where the forward pass puts its last snapshot."""
    at = 0
    while groups - at > 1 and slots > 1:
        at, slots = at + split(groups - at, slots), slots - 1
    return at


def repeated(groups: int, slots: int) -> int:
    """Groups that are run forward again to find carries; the forward pass and the rebuilding of graphs are not counted."""
    if groups <= 1:
        return 0
    repeats = 0
    while reachable(slots, repeats) < groups:
        repeats += 1
    return repeats * groups - reachable(slots + 1, repeats - 1) - last_snapshot(groups, slots)


def require_closed(outputs: Tree, inputs: Tree) -> None:
    """Checks that a recorded step depends on nothing that requires a gradient but its inputs.

    Raises:
        BadMemoryPolicy: otherwise; a rebuilt graph would silently lose that dependence.
    """
    found = other_than(tensors(outputs), tensors(inputs))
    if found is not None:
        raise BadMemoryPolicy(
            f"the inner loss or rule uses a tensor of shape {list(found.shape)} that requires a gradient but is in none of "
            "theta, the coupling and the hyperparameters; put it into the coupling, detach it, or use memory 'store'"
        )


class Replay:
    """One scan under a plan: the forward pass, and the reverse pass that rebuilds graphs from snapshots."""

    def __init__(
        self, step: Step, steps: int, plan: Plan, carry: Tree, closure: Tree, taken: Sequence[Tree] | None = None
    ) -> None:
        """
        Args:
            taken: every carry but the first, where the steps were taken before; then the plan is one snapshot a step.
        """
        self.taken = taken
        self.step, self.plan, self.closure, self.steps = step, plan, detach(closure), steps
        self.wanted = [leaf.requires_grad for leaf in tensors(closure)]
        self.tail_start = max(0, steps - plan.tail)
        self.groups = math.ceil(self.tail_start / plan.group)
        self.snapshots: list[tuple[int, Tree]] = []
        self.start_structure = detach(carry)
        self.kept: Any = None
        self.end: Tree = None
        self.rejoin: Tree = None  # the carry after the last group, from which a second reverse pass rebuilds the tail
        self.devices = [leaf.device for leaf in tensors(self.start_structure)]
        self.part_of = holder()
        self.autocast = [
            (kind, torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind))
            for kind in {"cpu", *(device.type for device in self.devices)}
        ]

    def _bounds(self, group: int) -> tuple[int, int]:
        """Steps of a group. The odd-sized group comes first, so that all others are full."""
        first = self.tail_start - (self.groups - 1) * self.plan.group
        return (0, first) if group == 0 else (first + (group - 1) * self.plan.group, first + group * self.plan.group)

    def _advance(self, carry: Tree, start: int, stop: int) -> Tree:
        with torch.no_grad():
            for group in range(start, stop):
                for t in range(*self._bounds(group)):
                    carry = self.step(t, carry, self.closure)
        return detach(carry)

    def _put_away(self, carry: Tree) -> Tree:
        if not self.plan.offload:
            return carry
        devices = [leaf.device if isinstance(leaf, Tensor) else None for leaf in leaves_of(carry)]
        # CUDA's copies alone go into pinned memory and are ordered with those back
        away = tree_map(lambda x: x.to("cpu", non_blocking=x.is_cuda) if isinstance(x, Tensor) else x, carry)
        return devices, away

    def _take_out(self, saved: Tree) -> Tree:
        if not self.plan.offload:
            return saved
        devices, away = saved
        pairs = zip(leaves_of(away), devices, strict=True)
        return filled(away, [leaf if device is None else leaf.to(device) for leaf, device in pairs])

    def _record(self, carry: Tree, start: int, stop: int) -> tuple[Tree, Tree, Tree]:
        with torch.enable_grad():
            at, closure = as_leaves(carry), detach(self.closure)
            for leaf, wanted in zip(tensors(closure), self.wanted, strict=True):
                leaf.requires_grad_(wanted)
            end = at
            for t in range(start, stop):
                end = self.step(t, end, closure)
        if self.step.must_be_closed:
            require_closed(end, (at, closure))
        return at, closure, end

    def _require_same(self, recorded: tuple[Tree, Tree, Tree], reached: Tree) -> None:
        at, _, end = recorded
        try:
            require_same_end(end, reached, at, GIVE_THE_SAME if self.taken is None else LEAVE_ALONE)
        except NotRepeatable:
            self.step.verify()  # which loss it was, where one differs, says more
            raise

    @contextlib.contextmanager
    def _as_in_forward(self) -> Iterator[None]:
        """The reverse pass may run anywhere: steps are rebuilt under the forward pass's autocast and attention kernels."""
        with contextlib.ExitStack() as stack:
            stack.enter_context(double_differentiable(self.part_of))
            stack.enter_context(rebuilding())
            for kind, enabled, dtype in self.autocast:
                if enabled or torch.is_autocast_enabled(kind):
                    stack.enter_context(torch.autocast(kind, dtype=dtype, enabled=enabled))
            yield

    def forward(self) -> Tree:
        if self.taken is not None:
            self.snapshots = list(enumerate([self.start_structure, *self.taken[:-1]]))
            self.rejoin = self.end = self.taken[-1]
            return self.end
        carry, at, slots = self.start_structure, 0, self.plan.slots
        if self.groups:
            self.snapshots.append((0, self._put_away(carry)))
            while self.groups - at > 1 and slots > 1:
                ahead = split(self.groups - at, slots)
                carry = self._advance(carry, at, at + ahead)
                at, slots = at + ahead, slots - 1
                self.snapshots.append((at, self._put_away(carry)))
            carry = self._advance(carry, at, self.groups)
        self.rejoin = carry
        if self.tail_start < self.steps:
            self.kept = self._record(carry, self.tail_start, self.steps)
            carry = detach(self.kept[2])
        self.end = carry
        return carry

    def backward(self, cotangent: Tree, wants_start: bool) -> tuple[Tree, list[Tensor]]:
        """Cotangents of the first carry (None when not wanted) and of those leaves of the closure that require one."""
        total: list[Tensor] | None = None

        def pull(recorded: tuple[Tree, Tree, Tree], cotangent: Tree, first: bool) -> Tree:
            nonlocal total
            at, closure, end = recorded
            inputs = {"closure": [leaf for leaf in tensors(closure) if leaf.requires_grad]}
            if wants_start or not first:
                inputs["at"] = at
            found = vjp_through(end, cotangent, inputs)
            pulled = found["closure"]
            total = pulled if total is None else [a + b for a, b in zip(total, pulled, strict=True)]
            return found.get("at")

        with self._as_in_forward():
            snapshots, kept, self.kept = list(self.snapshots), self.kept, None
            if self.taken is None:  # given up one by one; a second reverse pass sets them again from the first
                self.snapshots = self.snapshots[:1]
            if self.tail_start < self.steps:
                if kept is None:  # a second reverse pass
                    kept = self._record(self.rejoin, self.tail_start, self.steps)
                    self._require_same(kept, self.end)
                cotangent = pull(kept, cotangent, self.tail_start == 0)
                del kept
            stop, reached = self.groups, self.rejoin
            while snapshots:
                start, saved = snapshots[-1]
                slots = self.plan.slots - len(snapshots) + 1
                if stop - start > 1 and slots > 1:
                    ahead = split(stop - start, slots)
                    carry = self._advance(self._take_out(saved), start, start + ahead)
                    snapshots.append((start + ahead, self._put_away(carry)))
                    continue
                carry = self._take_out(saved)
                if stop - start > 1:
                    carry = self._advance(carry, start, stop - 1)
                else:
                    snapshots.pop()
                stop -= 1
                del saved
                recorded = self._record(carry, *self._bounds(stop))
                self._require_same(recorded, reached)
                reached = carry  # where the group before this one leads
                cotangent = pull(recorded, cotangent, stop == 0)
                del carry, recorded
        self.step.verify()
        return cotangent, total or []


class _Scan(torch.autograd.Function):
    """Joins a replayed scan to autograd's graph. Differentiable once."""

    @staticmethod
    def forward(ctx: Any, replay: Replay, carry_size: int, *leaves: Tensor) -> tuple[Tensor, ...]:
        ctx.replay, ctx.carry_size = replay, carry_size
        # outputs must not be inputs themselves: a parameter that never moves is passed on as a view
        return tuple(leaf.view_as(leaf) for leaf in tensors(replay.forward()))

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Any, ...]:
        if torch.is_grad_enabled():  # the gradient is to be differentiated, and would come out as a constant
            raise CannotDifferentiate(
                "an unroll whose reverse pass rebuilds its steps can be differentiated once; take memory 'store' for one whose "
                "gradient is differentiated again (inside another inner loss, or with create_graph=True)"
            )
        replay: Replay = ctx.replay
        end = tensors(replay.end)
        filled = [torch.zeros_like(e) if c is None else c for c, e in zip(cotangents, end, strict=True)]
        wants_start = any(ctx.needs_input_grad[2 : 2 + ctx.carry_size])
        start, closure = replay.backward(with_tensors(replay.end, filled), wants_start)
        found = tensors(start) if wants_start else [None] * ctx.carry_size
        pulled = iter(closure)
        return (None, None, *found, *(next(pulled) if wanted else None for wanted in replay.wanted))


def replayed(
    step: Step, carry: Tree, steps: int, closure: Tree, plan: Plan, taken: Sequence[Tree] | None = None
) -> Tree:
    """The scan under a plan; a plain loop when nothing is to be differentiated.

    Args:
        taken: every carry but the first, where they are known; see :class:`Replay`.
    """
    leaves = [*tensors(carry), *tensors(closure)]
    if steps <= plan.group or not torch.is_grad_enabled() or not any(leaf.requires_grad for leaf in leaves):
        return plain_scan(step, carry, steps, closure)  # one group's graph is what the plan holds anyway
    replay = Replay(step, steps, plan, carry, closure, taken)
    found = _Scan.apply(replay, len(tensors(carry)), *leaves)
    return with_tensors(replay.end, list(found))

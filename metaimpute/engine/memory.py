"""Memory policies: how a loop of inner steps keeps what its reverse pass needs. A value, never a code path.

A policy has one method, ``scan(step, carry, steps, closure)``: it applies ``carry = step(t, carry, closure)`` for ``t = 0 ..
steps-1`` so that autograd can differentiate the last carry with respect to the first one and to the closure.

``store`` leaves the work to autograd. Every other policy keeps some carries (snapshots: parameters and optimiser state)
and rebuilds the graph of a few steps at a time in the reverse pass. Which ones is a :class:`Plan`.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from .functional import double_differentiable, rebuilding
from .live_memory import LiveBytes
from .pytree import Tree, as_leaves, detach, differentiable, tensors, tree_map, vjp_through, with_tensors
from .registry import Registry, describe_choices

Step = Callable[[int, Tree, Tree], Tree]


class MemoryPolicy(Protocol):
    def scan(self, step: Step, carry: Tree, steps: int, closure: Tree) -> Tree: ...


memory_policies: Registry[Callable[..., MemoryPolicy]] = Registry("memory policy")


class BadMemoryPolicy(ValueError):
    """A memory policy that cannot be read, has an impossible argument, or a budget that cannot be met."""


@memory_policies.register("store")
@dataclass(frozen=True)
class Store:
    """Keep every step's graph: fastest, memory grows with the number of steps."""

    def scan(self, step: Step, carry: Tree, steps: int, closure: Tree) -> Tree:
        for t in range(steps):
            carry = step(t, carry, closure)
        return carry

    def __str__(self) -> str:
        return "store"


# plans ---------------------------------------------------------------------------------------------------------------


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
    known = {id(leaf) for leaf in tensors(inputs)}
    todo = [leaf.grad_fn for leaf in tensors(outputs) if leaf.grad_fn is not None]
    seen = set(todo)
    while todo:
        node = todo.pop()
        leaf = getattr(node, "variable", None)
        if leaf is not None and id(leaf) not in known:
            raise BadMemoryPolicy(
                f"the inner loss uses a tensor of shape {list(leaf.shape)} that requires a gradient but is in none of theta, "
                "the coupling and the hyperparameters; put it into the coupling, detach it, or use memory 'store'"
            )
        for following, _ in node.next_functions:
            if following is not None and following not in seen:
                seen.add(following)
                todo.append(following)


class _Replay:
    """One scan under a plan: the forward pass, and the reverse pass that rebuilds graphs from snapshots."""

    def __init__(self, step: Step, steps: int, plan: Plan, carry: Tree, closure: Tree) -> None:
        self.step, self.plan, self.closure, self.steps = step, plan, detach(closure), steps
        self.wanted = [leaf.requires_grad for leaf in tensors(closure)]
        self.tail_start = max(0, steps - plan.tail)
        self.groups = math.ceil(self.tail_start / plan.group)
        self.snapshots: list[tuple[int, Tree]] = []
        self.start_structure = detach(carry)
        self.kept: Any = None
        self.end: Tree = None
        self.rejoin: Tree = None  # the carry after the last group, to check that a rebuilt one leads there again
        self.devices = [leaf.device for leaf in tensors(self.start_structure)]
        self.must_be_closed = getattr(step, "must_be_closed", True)
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
        return tree_map(lambda x: x.to("cpu", non_blocking=True) if isinstance(x, Tensor) else x, carry)

    def _take_out(self, carry: Tree) -> Tree:
        if not self.plan.offload:
            return carry
        if len(tensors(carry)) != len(self.devices):  # an optimiser's state appeared after the first step
            return tree_map(lambda x: x.to(self.devices[0]) if isinstance(x, Tensor) else x, carry)
        return with_tensors(carry, [leaf.to(d) for leaf, d in zip(tensors(carry), self.devices, strict=True)])

    def _record(self, carry: Tree, start: int, stop: int) -> tuple[Tree, Tree, Tree]:
        with torch.enable_grad():
            at, closure = as_leaves(carry), detach(self.closure)
            for leaf, wanted in zip(tensors(closure), self.wanted, strict=True):
                leaf.requires_grad_(wanted)
            end = at
            for t in range(start, stop):
                end = self.step(t, end, closure)
        if self.must_be_closed:
            require_closed(end, (at, closure))
        return at, closure, end

    @contextlib.contextmanager
    def _as_in_forward(self) -> Iterator[None]:
        """The reverse pass may run anywhere: steps are rebuilt under the forward pass's autocast and attention kernels."""
        with contextlib.ExitStack() as stack:
            stack.enter_context(double_differentiable())
            stack.enter_context(rebuilding())
            for kind, enabled, dtype in self.autocast:
                if enabled or torch.is_autocast_enabled(kind):
                    stack.enter_context(torch.autocast(kind, dtype=dtype, enabled=enabled))
            yield

    def _require_same(self, end: Tree) -> None:
        """Checks that a rebuilt step leads where the step that was taken led.

        Raises:
            BadMemoryPolicy: when it does not, so that its gradient would be another function's.
        """
        for found, taken in zip(tensors(end), tensors(self.rejoin), strict=True):
            gap = (found.detach() - taken).abs().max() if taken.numel() else torch.zeros(())
            if float(gap) > 1e-3 * float(taken.abs().max()) + 1e-12:
                raise BadMemoryPolicy(
                    "a step rebuilt for the reverse pass does not repeat the step that was taken: a module's mode (train, eval) "
                    "or a tensor was changed in between; use memory 'store', or change nothing before the gradient is taken"
                )

    def forward(self) -> Tree:
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
            if self.tail_start < self.steps:
                if kept is None:  # a second reverse pass
                    kept = self._record(self.rejoin, self.tail_start, self.steps)
                cotangent = pull(kept, cotangent, self.tail_start == 0)
                del kept
            stop = self.groups
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
                if stop == self.groups - 1:
                    self._require_same(recorded[2])
                cotangent = pull(recorded, cotangent, stop == 0)
                del carry, recorded
        return cotangent, total or []


class _Scan(torch.autograd.Function):
    """Joins a replayed scan to autograd's graph. Differentiable once."""

    @staticmethod
    def forward(ctx: Any, replay: _Replay, carry_size: int, *leaves: Tensor) -> tuple[Tensor, ...]:
        ctx.replay, ctx.carry_size = replay, carry_size
        # outputs must not be inputs themselves: a parameter that never moves is passed on as a view
        return tuple(leaf.view_as(leaf) for leaf in tensors(replay.forward()))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Any, ...]:
        replay: _Replay = ctx.replay
        end = tensors(replay.end)
        filled = [torch.zeros_like(e) if c is None else c for c, e in zip(cotangents, end, strict=True)]
        wants_start = any(ctx.needs_input_grad[2 : 2 + ctx.carry_size])
        start, closure = replay.backward(with_tensors(replay.end, filled), wants_start)
        found = tensors(start) if wants_start else [None] * ctx.carry_size
        pulled = iter(closure)
        return (None, None, *found, *(next(pulled) if wanted else None for wanted in replay.wanted))


def replayed(step: Step, carry: Tree, steps: int, closure: Tree, plan: Plan) -> Tree:
    """The scan under a plan; a plain loop when nothing is to be differentiated."""
    leaves = [*tensors(carry), *tensors(closure)]
    if steps <= plan.group or not torch.is_grad_enabled() or not any(leaf.requires_grad for leaf in leaves):
        return Store().scan(step, carry, steps, closure)  # one group's graph is what the plan holds anyway
    replay = _Replay(step, steps, plan, carry, closure)
    found = _Scan.apply(replay, len(tensors(carry)), *leaves)
    return with_tensors(replay.end, list(found))


# policies ------------------------------------------------------------------------------------------------------------


@memory_policies.register("checkpoint")
@dataclass(frozen=True)
class Checkpoint:
    """Keep a snapshot every ``every`` steps and rebuild the graph of one such group at a time.

    One more evaluation of each step; memory for ``every`` graphs and ``steps / every`` copies of the carry. (Chen et al.,
    "Training deep nets with sublinear memory cost", 2016.) ``offload``: snapshots of an accelerator's tensors on the host.
    """

    every: int = 1
    offload: bool = False

    def __post_init__(self) -> None:
        if self.every < 1:
            raise BadMemoryPolicy(f"checkpoint(every) needs a whole number of at least 1, not {self.every}")

    def scan(self, step: Step, carry: Tree, steps: int, closure: Tree) -> Tree:
        return replayed(step, carry, steps, closure, Plan(self.every, steps, offload=self.offload))

    def __str__(self) -> str:
        return f"checkpoint({self.every}{', offload' if self.offload else ''})"


@memory_policies.register("recompute")
@dataclass(frozen=True)
class Recompute:
    """Keep the parameters and optimiser state of every step, and nothing else; rebuild one step's graph at a time.

    One more evaluation of each step; memory for one graph and k copies of the carry. What nets with large activations want.
    """

    offload: bool = False

    def scan(self, step: Step, carry: Tree, steps: int, closure: Tree) -> Tree:
        return replayed(step, carry, steps, closure, Plan(1, steps, offload=self.offload))

    def __str__(self) -> str:
        return "recompute(offload)" if self.offload else "recompute"


@memory_policies.register("revolve")
@dataclass(frozen=True)
class Revolve:
    """At most ``slots`` snapshots and one step's graph, placed for the fewest repeated steps (Griewank and Walther, 2000).

    Memory does not grow with k at fixed slots; with ``slots`` about log2(k) neither memory nor repetition grows faster than
    log k. What parameter-heavy nets and long unrolls want.
    """

    slots: int = 8
    offload: bool = False

    def __post_init__(self) -> None:
        if self.slots < 1:
            raise BadMemoryPolicy(f"revolve(slots) needs a whole number of at least 1, not {self.slots}")

    def scan(self, step: Step, carry: Tree, steps: int, closure: Tree) -> Tree:
        return replayed(step, carry, steps, closure, Plan(1, min(self.slots, steps), offload=self.offload))

    def __str__(self) -> str:
        return f"revolve({self.slots}{', offload' if self.offload else ''})"


@dataclass(frozen=True)
class Footprint:
    """Bytes of inner steps, measured.

    Attributes:
        snapshot: a carry. graph: what each further recorded step holds. first: what the first one of a group holds beyond
            that. working: the most that a step or its reversal needs beyond its graph.
    """

    snapshot: int
    graph: int
    first: int
    working: int


def measure_steps(step: Step, carry: Tree, closure: Tree, steps: int) -> Footprint:
    """Records two steps under a memory counter and reverses them.

    Two, since a graph may hold less of each step than the step's own end: a first layer's weights, say, are in no graph. The
    first step of the unroll is passed over where there are more, for it is often a smaller one (no momentum yet).
    """
    replay = _Replay(step, 3, Plan(1, 1), carry, closure)
    start, at = replay.start_structure, 0
    if steps > 2:
        with torch.no_grad(), rebuilding():
            start, at = detach(step(0, start, replay.closure)), 1
    with rebuilding(), LiveBytes() as live:
        live.ignore((start, replay.closure))
        one = replay._record(start, at, at + 1)
        single = live.now
        del one
        recorded = replay._record(start, at, at + 2)
        double, peak = live.now, live.peak
        live.reset_peak()
        ones = tree_map(lambda x: torch.ones_like(x) if differentiable(x) else x, detach(recorded[2]))
        wanted = [leaf for leaf in tensors(recorded[:2]) if leaf.requires_grad]
        found = vjp_through(recorded[2], ones, wanted)
        peak = max(peak, live.peak)
        snapshot = sum(leaf.nbytes for leaf in tensors(recorded[2]))
        del found, recorded, ones, wanted
    graph = max(0, double - single)
    # two carries of cotangents, the end point, and gradients on their way out are alive beside the step itself
    return Footprint(snapshot, graph, max(0, single - graph), max(0, peak - double) + 4 * snapshot)


@memory_policies.register("auto")
@dataclass(frozen=True)
class Auto:
    """The fastest plan within ``budget`` bytes: as many steps' graphs as fit, snapshots for the rest.

    Two steps are measured once per shape of the problem (graph, snapshot, working memory); then every size of
    group and number of snapshots is considered and the one with the fewest repeated steps taken. The budget is for what
    the unroll holds at its peak, above what was alive before; the network's own forward and backward pass in the outer
    loss is the caller's.

    Raises:
        BadMemoryPolicy: when not even one step with one snapshot fits, naming the least budget that would do. (A single
            inner step is not measured: there is nothing to choose.)
    """

    budget: int = 1 << 30
    _measured: dict[Any, Footprint] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.budget < 1:
            raise BadMemoryPolicy(f"auto(budget) needs a positive number of bytes, e.g. auto(512MB), not {self.budget}")

    def scan(self, step: Step, carry: Tree, steps: int, closure: Tree) -> Tree:
        leaves = [*tensors(carry), *tensors(closure)]
        if not torch.is_grad_enabled() or not any(leaf.requires_grad for leaf in leaves):
            return Store().scan(step, carry, steps, closure)
        shapes = tuple((tuple(leaf.shape), leaf.dtype, leaf.device) for leaf in leaves)
        key = (getattr(step, "kind", None), shapes)
        if key not in self._measured:
            if steps < 2:
                return Store().scan(step, carry, steps, closure)
            self._measured[key] = measure_steps(step, carry, closure, steps)
        plan = self.plan(steps, self._measured[key])
        if plan.tail >= steps:
            return Store().scan(step, carry, steps, closure)
        return replayed(step, carry, steps, closure, plan)

    def plan(self, steps: int, cost: Footprint) -> Plan:
        """The cheapest plan for ``steps`` steps of this footprint."""
        best: tuple[int, int, Plan] | None = None
        room = self.budget - cost.working
        for group in range(1, steps + 1):
            graphs = cost.first + group * cost.graph
            if graphs > room:
                break
            remaining = steps - group
            groups = math.ceil(remaining / group)
            slots = min(groups, (room - graphs) // max(1, cost.snapshot)) if groups else 0
            if groups and slots < 1:
                continue
            extra = remaining + group * repeated(groups, slots)
            held = graphs + slots * cost.snapshot
            candidate = (extra, held, Plan(group, max(1, slots), tail=group))
            if best is None or candidate[:2] < best[:2]:
                best = candidate
        if best is None:
            least = cost.first + cost.graph + cost.snapshot + cost.working
            raise BadMemoryPolicy(f"auto({_bytes(self.budget)}) is too little for one step; it needs {_bytes(least)}")
        return best[2]

    def __str__(self) -> str:
        return f"auto({_bytes(self.budget)})"


UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30}


def _bytes(count: int) -> str:
    for unit, size in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if count >= size:
            return f"{math.ceil(10 * count / size) / 10:g}{unit}"
    return f"{count}B"


def parse_memory(text: str | MemoryPolicy) -> MemoryPolicy:
    """``store``, ``checkpoint(4)``, ``recompute``, ``revolve(6)``, ``auto(512MB)``, ``recompute(offload)`` as a policy.

    Policies pass through.

    Raises:
        BadMemoryPolicy: naming the nearest valid policy, or what its argument must be.
    """
    if not isinstance(text, str):
        if not hasattr(text, "scan"):
            raise BadMemoryPolicy(f"memory is a policy or a text such as 'recompute', not {text!r}")
        return text
    match = re.fullmatch(r"\s*(\w+)\s*(?:\(\s*([^()]*?)\s*\))?\s*", text)
    if match is None or match[1] not in memory_policies:
        name = match[1] if match else text
        raise BadMemoryPolicy(f"unknown memory policy '{text}'; {describe_choices(name, memory_policies.names())}")
    name, arguments = match[1], [a.strip() for a in (match[2] or "").split(",") if a.strip()]
    options: dict[str, Any] = {}
    if "offload" in arguments and name in ("checkpoint", "recompute", "revolve"):
        arguments.remove("offload")
        options["offload"] = True
    if not arguments:
        if name == "auto":
            raise BadMemoryPolicy("memory policy 'auto' needs a budget, e.g. auto(512MB)")
        return memory_policies.get(name)(**options)
    wanted = {"checkpoint": "every", "revolve": "slots", "auto": "budget"}.get(name)
    if wanted is None or len(arguments) > 1:
        takes = "one argument" if wanted else "no argument" + (" but offload" if name == "recompute" else "")
        raise BadMemoryPolicy(f"memory policy '{name}' takes {takes}, not '{match[2]}'")
    number = re.fullmatch(r"(-?\d+(?:\.\d+)?)\s*([A-Za-z]*)", arguments[0])
    if number is None or number[2].upper() not in UNITS or (name != "auto" and (number[2] or "." in number[1])):
        kind = "a number of bytes such as 512MB or 2GiB" if name == "auto" else "a whole number"
        raise BadMemoryPolicy(f"memory policy '{name}({wanted})' needs {kind}, not '{arguments[0]}'")
    return memory_policies.get(name)(int(float(number[1]) * UNITS[number[2].upper()]), **options)

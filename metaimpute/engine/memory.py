"""Memory policies: how a loop of inner steps keeps what its reverse pass needs. A value, never a code path.

A policy has one method, ``scan(step, carry, steps, closure)``: it applies ``carry = step(t, carry, closure)`` for ``t = 0 ..
steps-1`` so that autograd can differentiate the last carry with respect to the first one and to the closure.

``store`` leaves the work to autograd. Every other policy keeps some carries (snapshots: parameters and optimiser state)
and rebuilds the graph of a few steps at a time in the reverse pass. Which ones is a
:class:`~metaimpute.engine.replay.Plan`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from .live_memory import LiveBytes
from .pytree import Tree, detach, differentiable, tensors, tree_map, vjp_through
from .registry import Registry, describe_choices
from .repetition import rebuilding
from .replay import BadMemoryPolicy, Plan, Replay, Step, plain_scan, repeated, replayed


class MemoryPolicy(Protocol):
    def scan(self, step: Step, carry: Tree, steps: int, closure: Tree) -> Tree: ...


memory_policies: Registry[Callable[..., MemoryPolicy]] = Registry("memory policy")


@memory_policies.register("store")
@dataclass(frozen=True)
class Store:
    """Keep every step's graph: fastest, memory grows with the number of steps."""

    def scan(self, step: Step, carry: Tree, steps: int, closure: Tree) -> Tree:
        return plain_scan(step, carry, steps, closure)

    def __str__(self) -> str:
        return "store"


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


def measure_steps(step: Step, carry: Tree, closure: Tree, steps: int, room: int) -> Footprint:
    """Records a step, then two where these fit into ``room`` bytes, under a memory counter and reverses them.

    Two, since a graph may hold less of each step than the step's own end: a first layer's weights, say, are in no graph. The
    first step of the unroll is passed over where there are more, for it is often a smaller one (no momentum yet).
    """
    replay = Replay(step, 3, Plan(1, 1), carry, closure)
    start, at = replay.start_structure, 0
    if steps > 2:
        with torch.no_grad(), rebuilding():
            start, at = detach(step(0, start, replay.closure)), 1
    with rebuilding(), LiveBytes() as live:
        live.ignore((start, replay.closure))
        held, beside, snapshot = list[int](), 0, 0
        for count in (1, 2):
            if (
                held and 2 * held[0] + beside > room
            ):  # not even measuring may take more; a step's own bytes bound its graph's
                break
            live.reset_peak()
            recorded = replay._record(start, at, at + count)
            held.append(live.now)
            snapshot = sum(leaf.nbytes for leaf in tensors(recorded[2]))
            ones = tree_map(lambda x: torch.ones_like(x) if differentiable(x) else x, detach(recorded[2]))
            wanted = [leaf for leaf in tensors(recorded[:2]) if leaf.requires_grad]
            found = vjp_through(recorded[2], ones, wanted)
            beside = max(beside, live.peak - held[-1])
            del found, recorded, ones, wanted
    graph = max(0, held[1] - held[0]) if len(held) > 1 else held[0]
    # alive beside the step itself: cotangents of the end and of now, the end, the start of the tail, gradients on their way out
    return Footprint(snapshot, graph, max(0, held[0] - graph), beside + 6 * snapshot)


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
        key = (step.kind, shapes)
        if key not in self._measured:
            if steps < 2:
                return Store().scan(step, carry, steps, closure)
            self._measured[key] = measure_steps(step, carry, closure, steps, self.budget)
        plan = self.plan(steps, self._measured[key])
        if plan.tail >= steps:
            return Store().scan(step, carry, steps, closure)
        return replayed(step, carry, steps, closure, plan)

    @property
    def footprint(self) -> Footprint | None:
        """Of the steps that were measured last; None before."""
        return next(reversed(self._measured.values()), None)

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
            raise BadMemoryPolicy(
                f"auto({shown_bytes(self.budget)}) is too little for one step; it needs {shown_bytes(least)}"
            )
        return best[2]

    def __str__(self) -> str:
        return f"auto({shown_bytes(self.budget)})"


UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30}


def shown_bytes(count: int) -> str:
    """A number of bytes for a person, rounded up."""
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

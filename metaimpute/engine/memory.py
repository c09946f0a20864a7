"""Memory policies: how a loop of inner steps keeps what its reverse pass needs. A value, never a code path.

A policy has one method, ``scan(step, carry, steps)``, that applies ``carry = step(t, carry)`` for ``t = 0 .. steps-1``.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from torch.utils.checkpoint import checkpoint

from .registry import Registry, describe_choices

Carry = Any
Step = Callable[[int, Carry], Carry]


class MemoryPolicy(Protocol):
    def scan(self, step: Step, carry: Carry, steps: int) -> Carry: ...


memory_policies: Registry[Callable[..., MemoryPolicy]] = Registry("memory policy")


class BadMemoryPolicy(ValueError):
    """A memory policy that cannot be read or has an impossible argument."""


@memory_policies.register("store")
@dataclass(frozen=True)
class Store:
    """Keep every step's graph: fastest, memory grows with the number of steps."""

    def scan(self, step: Step, carry: Carry, steps: int) -> Carry:
        for t in range(steps):
            carry = step(t, carry)
        return carry

    def __str__(self) -> str:
        return "store"


@memory_policies.register("checkpoint")
@dataclass(frozen=True)
class Checkpoint:
    """Keep the parameters every ``every`` steps and rebuild the graph in between during the reverse pass.

    One more evaluation of each step; memory for ``every`` graphs and ``steps / every`` copies of the parameters. The
    gradient is the stored one, bit for bit. (Chen et al., "Training deep nets with sublinear memory cost", 2016.)
    """

    every: int = 1

    def __post_init__(self) -> None:
        if self.every < 1:
            raise BadMemoryPolicy(f"checkpoint(every) needs a whole number of at least 1, not {self.every}")

    def scan(self, step: Step, carry: Carry, steps: int) -> Carry:
        for start in range(0, steps, self.every):

            def segment(carry: Carry, start: int = start) -> Carry:
                for t in range(start, min(start + self.every, steps)):
                    carry = step(t, carry)
                return carry

            # Noise is replayed from the step's own seed, so the global generator need not be saved.
            carry = checkpoint(segment, carry, use_reentrant=False, preserve_rng_state=False)
        return carry

    def __str__(self) -> str:
        return f"checkpoint({self.every})"


def parse_memory(text: str | MemoryPolicy) -> MemoryPolicy:
    """``"store"`` or ``"checkpoint(4)"`` as a policy; policies pass through.

    Raises:
        BadMemoryPolicy: naming the nearest valid policy.
    """
    if not isinstance(text, str):
        return text
    match = re.fullmatch(r"\s*(\w+)\s*(?:\(\s*(-?\d+)?\s*\))?\s*", text)
    if match is None or match[1] not in memory_policies:
        name = match[1] if match else text
        raise BadMemoryPolicy(f"unknown memory policy '{text}'; {describe_choices(name, memory_policies.names())}")
    argument = () if match[2] is None else (int(match[2]),)
    try:
        return memory_policies.get(match[1])(*argument)
    except TypeError:
        raise BadMemoryPolicy(f"memory policy '{match[1]}' takes no argument") from None

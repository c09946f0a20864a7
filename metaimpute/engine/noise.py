"""Random numbers by seed: a block's noise is a function of its seed alone, and leaves every generator as it was.

Torch's CPU generator is the process's. Where no other thread draws, it is seeded and put back; where one may, the thread's random
operations are handed a generator of its own, which gives the same numbers.
"""

from __future__ import annotations

import threading
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

_MPS = torch.backends.mps.is_available()


def _accelerated_generators() -> list[torch.Generator]:
    """Those of every device of an accelerator that is in use, so that a net spread over devices is replayed on all of them."""
    found: list[torch.Generator] = []
    for module in (torch.cuda, torch.xpu):
        if module.is_initialized():
            found.extend(module.default_generators)
    if _MPS:
        found.append(torch.mps._get_default_mps_generator())
    return found


class _OwnNoise(TorchDispatchMode):
    """Random operations of this thread draw from a generator of its own: the same numbers, and none of anybody else's."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.generator = torch.Generator(device="cpu").manual_seed(seed)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if torch.Tag.nondeterministic_seeded not in func.tags:
            return func(*args, **kwargs)
        names = {a.name for a in func._schema.arguments}
        if "generator" in names:
            given = dict(zip((a.name for a in func._schema.arguments), args, strict=False))
            if kwargs.get("generator", given.get("generator")) is None and self._on_cpu(args, kwargs):
                position = [a.name for a in func._schema.arguments].index("generator")
                if len(args) > position:
                    args = (*args[:position], self.generator, *args[position + 1 :])
                else:
                    kwargs = {**kwargs, "generator": self.generator}
            return func(*args, **kwargs)
        variant = "generator" if func._overloadname == "default" else f"{func._overloadname}_generator"
        overload = getattr(func.overloadpacket, variant, None)
        if overload is not None and self._on_cpu(args, kwargs):
            return overload(*args, **{**kwargs, "generator": self.generator})
        # no way to hand it a generator: the shared one takes our place for this operation
        shared = torch.default_generator
        before = shared.get_state()
        shared.set_state(self.generator.get_state())
        try:
            return func(*args, **kwargs)
        finally:
            self.generator.set_state(shared.get_state())
            shared.set_state(before)

    @staticmethod
    def _on_cpu(args: Any, kwargs: Any) -> bool:
        if kwargs.get("device") is not None:
            return torch.device(kwargs["device"]).type == "cpu"
        return all(a.device.type == "cpu" for a in args if isinstance(a, Tensor))


_DRAW_NOTHING = frozenset({"torch", "tqdm", "tensorboard", "ipykernel", "IPython", "zmq", "tornado", "rich", "execnet"})


def _others_may_draw() -> bool:
    """Whether a thread runs beside this one that could draw random numbers: not a progress bar's, notebook's or compiler's."""
    if threading.active_count() == 1:
        return False
    here = threading.current_thread()
    return any(
        (getattr(getattr(t, "_target", None), "__module__", None) or type(t).__module__).partition(".")[0]
        not in _DRAW_NOTHING
        for t in threading.enumerate()
        if t is not here
    )


class fixed_rng:  # a context manager, spelt as those of contextlib
    """Runs the block under ``seed`` on the CPU and every accelerator in use, then restores all generators.

    Where other threads run, the CPU's noise comes from a generator of this thread alone: the same numbers, and the others' are
    their own.

    Args:
        shared_generator: draw from the process's generator all the same, as a compiled program does.
    """

    __slots__ = ("_accelerated", "_before", "_own", "_seed", "_shared")

    def __init__(self, seed: int, *, shared_generator: bool = False) -> None:
        self._seed, self._shared = seed, shared_generator

    def __enter__(self) -> None:
        self._accelerated = [(generator, generator.get_state()) for generator in _accelerated_generators()]
        self._own = None if self._shared or not _others_may_draw() else _OwnNoise(self._seed)
        self._before = torch.default_generator.get_state() if self._own is None else None
        for generator, _ in self._accelerated:
            generator.manual_seed(self._seed)
        if self._own is None:
            torch.default_generator.manual_seed(self._seed)
        else:
            self._own.__enter__()

    def __exit__(self, *raised: Any) -> None:
        if self._own is not None:
            self._own.__exit__(*raised)
        if self._before is not None:
            torch.default_generator.set_state(self._before)
        for generator, state in self._accelerated:
            generator.set_state(state)


def _splitmix64(value: int) -> int:
    mask = (1 << 64) - 1
    value = ((value & mask) + 0x9E3779B97F4A7C15) & mask
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 & mask
    value = (value ^ (value >> 27)) * 0x94D049BB133111EB & mask
    return value ^ (value >> 31)


def derive_seed(seed: int, *path: int) -> int:
    """A seed for the stream named by ``path``, spread over 63 bits so that neighbouring streams do not overlap.

    The mixing is splitmix64 (Steele et al., "Fast splittable pseudorandom number generators", OOPSLA 2014).
    """
    state = _splitmix64(seed)
    for part in path:
        state = _splitmix64(state ^ (part * 0xD1342543DE82EF95))
    return state >> 1

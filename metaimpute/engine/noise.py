"""Random numbers by seed: a block's noise is a function of its seed alone, and leaves every generator as it was.

Torch's generators, one a device, are the process's. Where no other thread draws, they are seeded and put back; where one may, the
thread's random operations are handed generators of its own, which give the same numbers.
"""

from __future__ import annotations

import os
import sys
import threading
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from .ambient import waiting

_MPS = torch.backends.mps.is_available()
_DROPOUT = torch.ops.aten.native_dropout.default
_CPU = torch.device("cpu")
_ACCELERATORS: list[Any] = [torch.cuda, torch.xpu]  # a plug-in may add its torch module


def _accelerated_generators() -> list[torch.Generator]:
    """Those of every device of an accelerator that is in use, so that a net spread over devices is replayed on all of them."""
    found: list[torch.Generator] = []
    for module in _ACCELERATORS:
        if module.is_initialized():
            found.extend(module.default_generators)
    if _MPS:
        found.append(torch.mps._get_default_mps_generator())
    return found


def _shared(device: torch.device) -> torch.Generator:
    """The process's generator of a device."""
    if device.type == "cpu":
        return torch.default_generator
    if device.type == "mps":
        return torch.mps._get_default_mps_generator()
    found: torch.Generator = torch.get_device_module(device).default_generators[device.index]
    return found


_swapping = threading.Lock()


def _renew() -> None:
    """After a fork: another thread's lock would never be let go of in the child."""
    global _swapping
    _swapping = threading.Lock()


os.register_at_fork(after_in_child=_renew)


class _OwnNoise(TorchDispatchMode):
    """Random operations of this thread draw from generators of its own: the same numbers, and none of anybody else's."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.seed = seed
        self.generators: dict[torch.device, torch.Generator] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if torch.Tag.nondeterministic_seeded not in func.tags:
            return func(*args, **kwargs)
        device = self._device(args, kwargs)
        if device.type == "meta":  # there are no numbers to draw
            return func(*args, **kwargs)
        generator = self._of(device)
        names = [a.name for a in func._schema.arguments]
        if "generator" in names:
            position = names.index("generator")
            given = args[position] if len(args) > position else kwargs.get("generator")
            if given is not None:
                return func(*args, **kwargs)
            if len(args) > position:
                return func(*args[:position], generator, *args[position + 1 :], **kwargs)
            return func(*args, **{**kwargs, "generator": generator})
        if func is _DROPOUT and generator.device.type == "cuda" and 0 < args[1] < 1 and args[2] is not False:
            out, mask = torch.ops.aten._fused_dropout.default(args[0], 1 - args[1], generator)  # the same kernel
            return out, mask.bool()
        variant = "generator" if func._overloadname == "default" else f"{func._overloadname}_generator"
        overload = getattr(func.overloadpacket, variant, None)
        if overload is not None:
            return overload(*args, **{**kwargs, "generator": generator})
        # no way to hand it a generator: the shared one takes our place for this operation
        shared = _shared(generator.device)
        with _swapping:
            before = shared.get_state()
            shared.set_state(generator.get_state())
            try:
                return func(*args, **kwargs)
            finally:
                generator.set_state(shared.get_state())
                shared.set_state(before)

    def _of(self, device: torch.device) -> torch.Generator:
        if device not in self.generators:
            self.generators[device] = torch.Generator(device=device).manual_seed(self.seed)
        return self.generators[device]

    @staticmethod
    def _device(args: Any, kwargs: Any) -> torch.device:
        """Where an operation draws: an accelerator as soon as one of its tensors is there."""
        if kwargs.get("device") is not None:
            device = torch.device(kwargs["device"])
            if device.type in ("cpu", "meta"):
                return device
            return (
                device
                if device.index is not None
                else torch.device(device.type, torch.accelerator.current_device_index())
            )
        devices = [a.device for a in args if isinstance(a, Tensor)]
        return next((d for d in devices if d.type != "cpu"), _CPU)


_DRAW_NOTHING = frozenset({"torch", "tqdm", "tensorboard", "ipykernel", "IPython", "zmq", "tornado", "rich", "execnet"})
_CARRY_ALONE = frozenset({"multiprocessing.queues", "multiprocessing.resource_sharer"})  # between processes


def _draws_nothing(module: str) -> bool:
    return module in _CARRY_ALONE or module.partition(".")[0] in _DRAW_NOTHING


def _compiles(thread: threading.Thread) -> bool:
    """Whether it is one of the pool that torch's compiler keeps, which waits when it is done."""
    pool = getattr(getattr(sys.modules.get("torch._inductor.async_compile"), "AsyncCompile", None), "pool", None)
    begun = getattr(pool, "cache_info", None)
    return begun is not None and begun().currsize > 0 and thread in pool()._threads  # type: ignore[misc]


def _others_may_draw() -> bool:
    """Whether a thread runs beside this one that could draw random numbers: not a progress bar's, notebook's or compiler's."""
    if threading.active_count() == 1:
        return False
    here = (threading.get_ident(), waiting())  # current_thread() would enter autograd's threads into threading's list
    return any(
        not _draws_nothing(getattr(getattr(t, "_target", None), "__module__", None) or type(t).__module__)
        for t in threading.enumerate()
        if t.ident not in here and not _compiles(t)
    )


class fixed_rng:  # a context manager, spelt as those of contextlib
    """Runs the block under ``seed`` on the CPU and every accelerator in use, then restores all generators.

    Where other threads run, noise comes from generators of this thread alone: the same numbers, and the others' are their own.

    Args:
        shared_generator: draw from the process's generators all the same, as a compiled program does; what the blocks around it
            have put in their place, under which torch compiles nothing, is away for so long.
    """

    __slots__ = ("_around", "_before", "_own", "_seed", "_shared")

    def __init__(self, seed: int, *, shared_generator: bool = False) -> None:
        self._seed, self._shared = seed, shared_generator

    def __enter__(self) -> None:
        self._own = None if self._shared or not _others_may_draw() else _OwnNoise(self._seed)
        if self._own is not None:
            self._own.__enter__()
            return
        self._around = _taken_off() if self._shared else []
        generators = (torch.default_generator, *_accelerated_generators())
        self._before: list[tuple[torch.Generator, torch.Tensor]] = [(one, one.get_state()) for one in generators]
        for generator in generators:
            generator.manual_seed(self._seed)

    def __exit__(self, *raised: Any) -> None:
        if self._own is not None:
            self._own.__exit__(*raised)
            return
        for generator, state in self._before:
            generator.set_state(state)
        for mode in reversed(self._around):
            torch._C._push_on_torch_dispatch_stack(mode)


def _taken_off() -> list[_OwnNoise]:
    """The thread's own noise that is innermost, off the stack of dispatch modes, the last one first."""
    found = []
    while depth := torch._C._len_torch_dispatch_stack():
        if not isinstance(torch._C._get_dispatch_stack_at(depth - 1), _OwnNoise):
            break
        found.append(torch._C._pop_torch_dispatch_stack(None))
    return found


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

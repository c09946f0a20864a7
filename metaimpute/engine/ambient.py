"""What torch keeps for the whole process or thread, put as an evaluation needs it and put back afterwards.

Attention kernels and the fast path of transformer layers belong to the process; gradient mode, inference mode, forward mode and
autocast's cache to the thread. :func:`double_differentiable` sets the first under a lock, so that no other
thread's call of the engine can leave them changed, and the second for its own thread. :func:`as_usual` is for what trains a
network from its first weights, where the engine's callers decide what surrounds a loss.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import os
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils import checkpoint

from ..errors import UserError


class CannotDifferentiate(UserError, ValueError):
    """A situation in which torch would give no derivative, or a wrong one, with the way out."""


_AUTOCAST = ("cpu", "cuda", "mps", "xpu")


class _Within(threading.local):
    """Whether this thread runs a reverse pass for another one that holds the lock and waits, as autograd's threads do."""

    delegated = False


class _Switches:
    """The lock on what belongs to the process. Held by a thread, and by the reverse pass that this thread waits for."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.holder: object | None = None
        self.thread: int | None = None

    def renew(self) -> None:
        """After a fork: another thread's lock would never be let go of in the child."""
        self.lock, self.holder, self.thread = threading.RLock(), None, None


_switches = _Switches()
_within = _Within()
_held: contextvars.ContextVar[object | None] = contextvars.ContextVar("held", default=None)
os.register_at_fork(after_in_child=_switches.renew)


def holder() -> object | None:
    """Names the engine call that holds the process's switches; a reverse pass that it waits for may run in another thread."""
    return _switches.holder


def waiting() -> int | None:
    """The thread that waits for what this one does: an accelerator's reverse passes run in a thread of autograd's."""
    return _switches.thread if _within.delegated else None


@contextlib.contextmanager
def exclusive() -> Iterator[None]:
    """One thread at a time: for work that reads or writes the global generator or a module's mode over many calls."""
    if _within.delegated:  # the thread that waits for this one holds the lock
        yield
        return
    with _switches.lock:
        before, held = (_switches.holder, _switches.thread), _held.get()
        _switches.holder, _switches.thread = _switches.holder or object(), threading.get_ident()
        _held.set(_switches.holder)
        try:
            yield
        finally:
            _switches.holder, _switches.thread = before
            _held.set(held)


@contextlib.contextmanager
def _delegated() -> Iterator[None]:
    before, _within.delegated = _within.delegated, threading.get_ident() != _switches.thread
    try:
        yield
    finally:
        _within.delegated = before


class _NoReentrantCheckpoints:
    """Stands in for torch's older form of activation checkpointing, whose gradients autograd.grad cannot take.

    Where none of its inputs requires a gradient it gives none at all, without an error.
    """

    def __init__(self, original: Any) -> None:
        self.original, self.thread = original, threading.get_ident()

    def apply(self, *args: Any) -> Any:
        if threading.get_ident() != self.thread:
            return self.original.apply(*args)
        raise CannotDifferentiate(
            "activation checkpointing with use_reentrant=True has no second derivative; pass use_reentrant=False (Hugging Face: "
            "gradient_checkpointing_enable(gradient_checkpointing_kwargs={'use_reentrant': False}))"
        )


def _of_the_waiting() -> object | None:
    """What the thread held that began the reverse pass which this one carries out: torch hands its context on."""
    if not torch._C._is_key_in_tls("context"):
        return None
    context = torch._C._get_obj_in_tls("context")
    return context.get(_held) if isinstance(context, contextvars.Context) else None


@contextlib.contextmanager
def double_differentiable(part_of: object | None = None) -> Iterator[None]:
    """Only operations that support double backward and forward mode, for the duration of the block, whatever surrounds it.

    Attention takes its composite form, inference mode is left, forward mode is on, autocast keeps no casts (one made without a
    graph would cut the gradient of a later use). One thread is in such a block at a time.

    Args:
        part_of: the :func:`holder` of the call that this block is a part of, where it may run in another thread.
    """
    inside = _switches.holder is not None and _switches.holder in (part_of, _of_the_waiting())
    with _delegated() if inside else exclusive():
        fast_path, cached = torch.backends.mha.get_fastpath_enabled(), torch.is_autocast_cache_enabled()
        with torch.inference_mode(False), forward_ad._set_fwd_grad_enabled(True), sdpa_kernel(SDPBackend.MATH):
            torch.backends.mha.set_fastpath_enabled(False)
            torch.set_autocast_cache_enabled(False)
            place: Any = checkpoint  # a module in which a class is replaced for a while
            reentrant = place.CheckpointFunction
            if not isinstance(reentrant, _NoReentrantCheckpoints):
                place.CheckpointFunction = _NoReentrantCheckpoints(reentrant)
            try:
                yield
            finally:
                place.CheckpointFunction = reentrant
                torch.set_autocast_cache_enabled(cached)
                torch.backends.mha.set_fastpath_enabled(fast_path)


@contextlib.contextmanager
def without_cudnn() -> Iterator[None]:
    """Recurrent layers without cuDNN (MIOpen), whose kernels have no second derivative; torch's own have one."""
    with exclusive():
        enabled = torch._C._get_cudnn_enabled()
        torch._C._set_cudnn_enabled(False)
        try:
            yield
        finally:
            torch._C._set_cudnn_enabled(enabled)


@contextlib.contextmanager
def autocast_off() -> Iterator[None]:
    """No device's autocast in this block."""
    with contextlib.ExitStack() as stack:
        for kind in _AUTOCAST:
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        yield


@contextlib.contextmanager
def as_usual() -> Iterator[None]:
    """Torch as a program finds it: gradients recorded, no autocast, float32 and the CPU where nothing else is said.

    For work whose numbers may not depend on what surrounds it. It also decorates a function.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(forward_ad._set_fwd_grad_enabled(True))
        stack.enter_context(autocast_off())
        dtype = torch.get_default_dtype()
        if dtype != torch.float32:
            stack.callback(torch.set_default_dtype, dtype)
            torch.set_default_dtype(torch.float32)
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        yield


def outside_transforms(what: str) -> None:
    """Raises:
    CannotDifferentiate: inside a function that torch.func transforms, where autograd does not see the arguments."""
    if not torch.compiler.is_compiling() and torch._C._functorch.peek_interpreter_stack() is not None:
        raise CannotDifferentiate(
            f"{what} inside a function that torch.func transforms (grad, vmap, jvp) would lose its derivative; call it outside, "
            "map many problems with stacked(), and differentiate unroll() by autograd"
        )


def changing_nothing(hook: Callable[[Tensor], Tensor | None]) -> Callable[[Tensor], None]:
    """A hook on a tensor's gradient that may look at it and is refused where it changes it.

    What a hook does is part of no second derivative: the product that stands for the gradient's derivative would be another's.
    """

    def watched(gradient: Tensor) -> None:
        if hook(gradient) is not None:
            raise CannotDifferentiate(
                "a hook on a tensor of the loss changes its gradient, which is part of no second derivative; write what it does "
                "into the loss"
            )

    return watched


class HooksChangeNothing(TorchFunctionMode):
    """Around an evaluation of a loss whose gradient is differentiated by other means than autograd's own graph of it."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.Tensor.register_hook:
            return func(args[0], changing_nothing(args[1]))
        return func(*args, **(kwargs or {}))


class NoGradStopsTangents(TorchFunctionMode):
    """In this block ``no_grad`` stops tangents as it stops gradients: by itself torch carries them on.

    Around the evaluation of a loss, and no more: every call of torch from Python passes through it.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.Tensor.register_hook:
            return func(args[0], changing_nothing(args[1]))
        if func is torch._C._set_grad_enabled:
            forward_ad._set_fwd_grad_enabled(bool(args[0]))
        return func(*args, **(kwargs or {}))


def forward_mode_available() -> bool:
    """Whether a level can be opened: torch has one at a time."""
    return forward_ad._current_level < 0


@functools.cache
def _load_decompositions() -> None:
    """What torch imports at its first use of forward mode, without the deprecation warning that it then raises at itself."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        import torch._decomp.decompositions_for_jvp  # noqa: F401


@contextlib.contextmanager
def forward_mode() -> Iterator[None]:
    """A level of torch's forward-mode differentiation.

    Raises:
        CannotDifferentiate: inside another level.
    """
    if not forward_mode_available():
        raise CannotDifferentiate(
            "a level of forward mode is open already, and torch has one at a time; use 'exact' or 'mixed'"
        )
    _load_decompositions()
    with forward_ad._set_fwd_grad_enabled(True), forward_ad.dual_level():
        yield


@contextlib.contextmanager
def stepping_outside_forward_mode() -> Iterator[None]:
    """Forward mode off: tangents that a tensor carries stay on it, and nothing computed from it gets any."""
    with forward_ad._set_fwd_grad_enabled(False):
        yield


def has_tangent(tensor: Tensor) -> bool:
    """Whether the tensor is a dual number of a forward-mode level that is open."""
    return forward_ad._current_level >= 0 and forward_ad.unpack_dual(tensor).tangent is not None

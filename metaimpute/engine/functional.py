"""``nn.Module`` -> pure function of (parameters, buffers), safe to differentiate twice and in forward mode.

Three things make a stock module unsafe inside an unroll, and are dealt with here so that no caller has to:

* BatchNorm writes its running statistics in place. Every call works on clones of the buffers, so inner and hold-out
  passes leave no trace; a training pass that should update them says so with :meth:`FunctionalModel.updating_buffers`.
* Fused attention kernels have neither double backward nor forward mode. :func:`double_differentiable` routes
  ``scaled_dot_product_attention`` to its composite form and turns off the fused ``nn.TransformerEncoderLayer`` path.
* Dropout draws fresh noise at every evaluation, while a hypergradient evaluates the same loss several times.
  :func:`fixed_rng` replays it.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

Params = dict[str, Tensor]


class HeadNotFound(ValueError):
    """The model's output is not the output of a linear layer, so last-layer estimators do not apply."""


@contextlib.contextmanager
def double_differentiable() -> Iterator[None]:
    """Only attention kernels that support double backward and forward mode, for the duration of the block."""
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)


@contextlib.contextmanager
def forward_mode() -> Iterator[None]:
    """A level of torch's forward-mode differentiation, without the deprecation warning that torch raises at its own first use."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        import torch._decomp.decompositions_for_jvp  # noqa: F401
    with forward_ad.dual_level():
        yield


@contextlib.contextmanager
def fixed_rng(seed: int) -> Iterator[None]:
    """Runs the block under ``seed`` on the CPU and the current accelerator, then restores both generators."""
    generator = torch.default_generator
    before = generator.get_state()
    # torch.manual_seed would also queue a seeding, with a stack trace, for every accelerator that was never used
    accelerated = torch.cuda.is_available() and torch.cuda.is_initialized()
    others = torch.random.fork_rng(devices=[torch.cuda.current_device()]) if accelerated else contextlib.nullcontext()
    try:
        with others:
            generator.manual_seed(seed)
            if accelerated:
                torch.cuda.manual_seed(seed)
            yield
    finally:
        generator.set_state(before)


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


def _inside_vmap() -> bool:
    if torch.compiler.is_compiling():  # the step may be a stack's, and what is inside is not to be seen from here
        return True
    return torch._C._functorch.peek_interpreter_stack() is not None


@contextlib.contextmanager
def _untracked_statistics(module: nn.Module) -> Iterator[None]:
    """Normalisation in training mode without its running statistics, which torch.vmap cannot update in place."""
    tracking = [
        part
        for part in module.modules()
        if isinstance(part, nn.modules.batchnorm._NormBase) and part.training and part.track_running_stats
    ]
    for part in tracking:
        part.track_running_stats = False
    try:
        yield
    finally:
        for part in tracking:
            part.track_running_stats = True


_rebuilding: list[list[nn.Module]] = []


@contextlib.contextmanager
def rebuilding() -> Iterator[list[nn.Module]]:
    """Passes in this block repeat one that was already made, so they carry no statistics into any module.

    Yields a list of the modules that held back an update.
    """
    held: list[nn.Module] = []
    _rebuilding.append(held)
    try:
        yield held
    finally:
        _rebuilding.pop()


class FunctionalModel:
    """A module as a pure function ``model(params, *inputs)``.

    Args:
        module: any ``nn.Module``. Its trainable parameters are :attr:`params`; frozen parameters and buffers are read
            from the module itself. Tied weights are one parameter.
        head: dotted name of the last linear layer. Default: the last ``nn.Linear`` in registration order. Only the
            ``approx`` and ``head`` estimators look at it.
    """

    def __init__(self, module: nn.Module, head: str | None = None) -> None:
        self.module = module
        self._update_buffers = False
        linear = [name for name, part in module.named_modules() if isinstance(part, nn.Linear)]
        if head is not None and head not in linear:
            raise HeadNotFound(f"'{head}' is not a linear layer of the model; linear layers: {', '.join(linear)}")
        self._head = head or (linear[-1] if linear else None)

    @property
    def params(self) -> Params:
        """Trainable parameters by name, the module's own tensors (not copies)."""
        return {name: p for name, p in self.module.named_parameters() if p.requires_grad}

    @property
    def buffers(self) -> Params:
        return dict(self.module.named_buffers())

    @property
    def head(self) -> tuple[str, ...]:
        """Names of the last linear layer's parameters, weight first.

        Raises:
            HeadNotFound: when the model has no linear layer, or its weight is frozen or tied under another name.
        """
        if self._head is None:
            raise HeadNotFound("the model has no linear layer; the 'approx' and 'head' estimators need one")
        prefix = self._head + "." if self._head else ""
        names = tuple(prefix + part for part in ("weight", "bias") if prefix + part in self.params)
        if prefix + "weight" not in names:
            raise HeadNotFound(f"the weight of '{self._head or 'the model'}' is frozen or tied to another layer")
        return names

    def __call__(self, params: Params, *args: Any, **kwargs: Any) -> Any:
        """The module's output under ``params``; running statistics are left as they were."""
        buffers = {name: b.clone() for name, b in self.module.named_buffers()}
        with _untracked_statistics(self.module) if _inside_vmap() else contextlib.nullcontext():
            output = functional_call(self.module, (params, buffers), args, kwargs)
        if self._update_buffers and _rebuilding:
            _rebuilding[-1].append(self.module)
        elif self._update_buffers:
            with torch.no_grad():
                for name, buffer in self.module.named_buffers():
                    buffer.copy_(buffers[name])
        return output

    @contextlib.contextmanager
    def updating_buffers(self, enabled: bool = True) -> Iterator[None]:
        """Passes in this block carry their BatchNorm statistics into the module, as a training pass does."""
        before, self._update_buffers = self._update_buffers, enabled
        try:
            yield
        finally:
            self._update_buffers = before

    def features(self, params: Params, *args: Any, **kwargs: Any) -> Tensor:
        """Input of the last linear layer, shape ``[batch, features]``.

        Raises:
            HeadNotFound: when the model's output is not that layer's output, unchanged.
        """
        names = self.head
        layer = self.module.get_submodule(self._head or "")
        seen: dict[str, Any] = {}

        def look(_: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
            seen["features"], seen["output"] = inputs[0], output

        handle = layer.register_forward_hook(look)
        try:
            output = self(params, *args, **kwargs)
        finally:
            handle.remove()
        if seen.get("output") is not output:
            raise HeadNotFound(
                f"the model's output is not that of its last linear layer ({names[0]}); name it with head="
            )
        return seen["features"]

    def readout(self, params: Params, features: Tensor) -> Tensor:
        """The last linear layer applied to ``features``, shape ``[batch, outputs]``."""
        names = self.head
        bias = params[names[1]] if len(names) == 2 else self.module.get_submodule(self._head or "").bias
        return nn.functional.linear(features, params[names[0]], bias)  # type: ignore[arg-type]

"""A device that is none: tensors that say they are on ``sham:0`` and compute on the CPU, and meet the CPU's only as an accelerator's may.

With it the suite finds on any machine what otherwise shows on an accelerator alone: a constant that was made on the CPU, a generator
that nobody restores, a reverse pass that runs in a thread of autograd's.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

NAME = "sham"


class Sham(Tensor):
    """A tensor of the device; what it holds is a tensor of the CPU."""

    raw: Tensor

    @staticmethod
    def __new__(cls, raw: Tensor) -> Sham:
        made: Sham = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, raw.size(), strides=raw.stride(), storage_offset=raw.storage_offset(), dtype=raw.dtype, device=f"{NAME}:0"
        )  # fmt: skip
        made.raw = raw
        return made

    def __repr__(self) -> str:
        return f"Sham({self.raw})"

    def tolist(self) -> Any:
        return self.raw.tolist()

    def numpy(self, *_: Any, **__: Any) -> Any:
        raise TypeError("can't convert a sham tensor to numpy; use .cpu()")

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {})


aten = torch.ops.aten
COPIES = {aten.copy_.default, aten._to_copy.default}
INDEXED = {aten.index.Tensor, aten.index_put_.default, aten.index_put.default, aten._index_put_impl_.default}
ALL_ALIKE = {aten.cat.default, aten.stack.default}  # elsewhere the CPU's tensors without dimensions serve as numbers
generators: list[torch.Generator] = []  # the device's own


def require_alike(func: Any, given: list[Tensor]) -> None:
    """An accelerator's refusal of operations on tensors of two devices."""
    shams = [isinstance(leaf, Sham) for leaf in given]
    if func in COPIES or not any(shams) or (func in INDEXED and shams[0]):
        return
    strays = [leaf for leaf, sham in zip(given, shams, strict=True) if not sham and (leaf.dim() or func in ALL_ALIKE)]
    if strays:
        raise RuntimeError(f"Expected all tensors to be on the same device, but {func} got {NAME}:0 and cpu")


def run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    given = [leaf for leaf in _pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    require_alike(func, given)
    shams = [leaf for leaf in given if isinstance(leaf, Sham)]
    here = bool(shams)
    if kwargs.get("device") is not None:
        here = torch.device(kwargs["device"]).type == NAME
        kwargs = {**kwargs, "device": torch.device("cpu")}
    if func is aten._efficientzerotensor.default and here:
        func = aten.zeros.default
    arguments, words = _pytree.tree_map(lambda leaf: leaf.raw if isinstance(leaf, Sham) else leaf, (args, kwargs))
    if here and torch.Tag.nondeterministic_seeded in func.tags and words.get("generator") is None:
        found = drawn(func, arguments, words)
    else:
        found = func(*arguments, **words)
    if func is aten.copy_.default:
        return args[0]
    if not here:
        return found
    if func is aten._to_copy.default and any(found is leaf.raw for leaf in shams):
        found = found.clone()
    known = {id(leaf.raw): leaf for leaf in shams}  # an operation in place
    return _pytree.tree_map(
        lambda leaf: known[id(leaf)] if id(leaf) in known else Sham(leaf) if isinstance(leaf, Tensor) else leaf, found
    )


def drawn(func: Any, args: Any, kwargs: Any) -> Any:
    """The device's generator in the place of the CPU's."""
    host, own = torch.default_generator, generators[0]
    before = host.get_state()
    host.set_state(own.get_state())
    try:
        return func(*args, **kwargs)
    finally:
        own.set_state(host.get_state())
        host.set_state(before)


class ShamMode(TorchDispatchMode):
    """Makes new tensors on the device, which no argument tells of."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {})


class Module:
    """What torch asks of a device's module, and noise.py of an accelerator's."""

    default_generators = generators

    def is_available(self) -> bool:
        return True

    is_initialized = is_available

    def device_count(self) -> int:
        return 1

    def current_device(self) -> int:
        return 0

    def set_device(self, _: Any) -> None:
        pass

    def synchronize(self, _: Any = None) -> None:
        pass

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]

    def _is_in_bad_fork(self) -> bool:
        return False

    def manual_seed_all(self, seed: int) -> None:
        generators[0].manual_seed(seed)

    def get_rng_state(self, _: Any = None) -> Tensor:
        return generators[0].get_state()

    def set_rng_state(self, state: Tensor, _: Any = None) -> None:
        generators[0].set_state(state)


library = torch.library.Library("aten", "IMPL")


def new_strided(size: Any, stride: Any, *, dtype: Any = None, **_: Any) -> Tensor:
    return Sham(torch.empty_strided(size, stride, dtype=dtype, device="cpu"))


def copied_into(target: Tensor, source: Tensor, non_blocking: bool = False) -> Tensor:
    return run(aten.copy_.default, (target, source), {})


def start() -> torch.device:
    """Registers the device; once in a process."""
    generators.append(torch.Generator(device="cpu"))
    _setup_privateuseone_for_python_backend(NAME, backend_module=Module())
    from metaimpute.engine import noise

    noise._ACCELERATORS.append(Module())
    torch.accelerator.synchronize = lambda *_: None
    ShamMode().__enter__()
    # torch.tensor() comes here past every mode
    library.impl("empty_strided", new_strided, "PrivateUse1")
    library.impl("copy_", copied_into, "PrivateUse1")
    return torch.device(NAME, 0)

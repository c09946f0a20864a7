"""A module's twin for one call: its code and its settings, with other tensors in the places of parameters and buffers.

``torch.func.functional_call`` puts tensors into the module itself and takes them out when the forward pass is over. What the
module does later (activation checkpointing's second forward pass, hooks on saved tensors, a closure that is called afterwards)
then sees the module's own parameters, a module at two places is left changed, and two threads see each other's. A twin has none
of that: what it hands on refers to the twin, for as long as it is needed, and the user's module is never touched.
"""

from __future__ import annotations

import contextlib
import functools
import operator
import types
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.nn.utils.weight_norm import WeightNorm

from .ambient import without_cudnn
from .gathering import Packing, Shard, is_fsdp_hook

_ATOMS = frozenset(
    [
        type(None),
        bool,
        int,
        float,
        complex,
        str,
        bytes,
        type,
        torch.dtype,
        torch.device,
        torch.Size,
        torch.memory_format,
    ]
)
CALL, COPY = "_call_impl", "__deepcopy__"  # a part that has them is in a block (:mod:`.inside`), a twin of it is not
_OWN = frozenset({"_parameters", "_buffers", "_modules"})
_OF_EVERY_MODULE = frozenset(vars(nn.Module()))  # torch's own attributes, of which only hooks can refer to a part
_HOOKS = tuple(
    name for name, value in vars(nn.Module()).items() if isinstance(value, OrderedDict | dict) and name not in _OWN
)
_NEED_CARE = (
    nn.modules.batchnorm._NormBase,
    nn.Embedding,
    nn.EmbeddingBag,
    nn.Hardsigmoid,
    nn.RNNBase,
    parametrizations._WeightNorm,
)
_MISSING: Any = object()
_LARGEST = 4096  # containers above this are data, not modules


def parts_of(module: nn.Module) -> tuple[nn.Module, ...]:
    """The module and all in it, each once, in the order of ``module.modules()``."""
    found: dict[int, nn.Module] = {}
    todo = [module]
    while todo:
        part = todo.pop()
        if id(part) not in found:
            found[id(part)] = part
            if part._modules:
                todo.extend([child for child in reversed(part._modules.values()) if child is not None])
    return tuple(found.values())


def composed_weight_norm(g: Tensor, v: Tensor, dim: int) -> Tensor:
    """``g v / |v|``, the norm over all dimensions but ``dim`` (-1: over all). (Salimans and Kingma, NeurIPS 2016.)"""
    return v * (g / torch.norm_except_dim(v, 2, dim))


def composed_hardsigmoid(x: Tensor) -> Tensor:
    """``min(max(x + 3, 0), 6) / 6``. (Howard et al., "Searching for MobileNetV3", ICCV 2019.)"""
    return nn.functional.relu6(x + 3) / 6


def recurrent(forward: Callable[..., Any], twin: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """A recurrent layer's forward pass by torch's own kernels."""
    with without_cudnn():
        return forward(twin, *args, **kwargs)


class _ComposedHook:
    """The older ``torch.nn.utils.weight_norm``, composed."""

    def __init__(self, hook: WeightNorm) -> None:
        self.name, self.dim = hook.name, hook.dim

    def __call__(self, module: nn.Module, inputs: Any) -> None:
        weight = composed_weight_norm(getattr(module, self.name + "_g"), getattr(module, self.name + "_v"), self.dim)
        setattr(module, self.name, weight)


def _called_with(hook: Any, part: nn.Module, twin: nn.Module, *args: Any) -> Any:
    """A forward hook on a twin, handed the part of the user's module that it was registered on."""
    return hook(part, *args)


class _Rebinding:
    """Copies what refers to the module's parts outside the places torch knows of: a list, a bound method, a closure."""

    def __init__(self, twins: Mapping[int, Any], packing: Packing | None = None) -> None:
        self.twins, self.packing = twins, packing
        self.made: dict[int, Any] = {}

    def __call__(self, value: Any) -> Any:
        """The value with every part replaced by its twin; the value itself where there is none in it."""
        kind = type(value)
        if kind in _ATOMS or ((kind is tuple or kind is list) and _ATOMS.issuperset(map(type, value[:_LARGEST]))):
            return value
        if kind is WeightNorm:
            return _ComposedHook(value)
        key = id(value)
        if key in self.twins:
            found = self.twins[key]
            return self.packing.whole(found) if self.packing is not None and isinstance(found, Shard) else found
        if key in self.made:
            return self.made[key]
        if kind in (list, tuple, dict, OrderedDict, types.MethodType, functools.partial, types.FunctionType):
            self.made[key] = value  # while we are inside it
            self.made[key] = self._copy(kind, value)
            return self.made[key]
        return value

    def _copy(self, kind: type, value: Any) -> Any:
        if kind in (list, tuple):
            parts = [self(part) for part in value] if len(value) <= _LARGEST else value
            return kind(parts) if any(a is not b for a, b in zip(parts, value, strict=True)) else value
        if kind in (dict, OrderedDict):
            if len(value) > _LARGEST:
                return value
            pairs = [(self(name) if isinstance(name, nn.Module) else name, self(part)) for name, part in value.items()]
            same = all(a is c and b is d for (a, b), (c, d) in zip(pairs, value.items(), strict=True))
            return value if same else kind(pairs)
        if kind is types.MethodType:
            owner = self(value.__self__)
            return value if owner is value.__self__ else types.MethodType(value.__func__, owner)
        if kind is functools.partial:
            func, args, words = self(value.func), self(value.args), self(value.keywords)
            same = func is value.func and args is value.args and words is value.keywords
            return value if same else functools.partial(func, *args, **words)
        return self._closure(value)

    def _closure(self, function: types.FunctionType) -> Any:
        cells = function.__closure__ or ()
        values = []
        for cell in cells:
            try:
                values.append(cell.cell_contents)
            except ValueError:  # not filled yet
                return function
        found = [self(value) for value in values]
        if all(a is b for a, b in zip(found, values, strict=True)):
            return function
        made = types.FunctionType(
            function.__code__,
            function.__globals__,
            function.__name__,
            function.__defaults__,
            tuple(types.CellType(value) for value in found),
        )
        made.__kwdefaults__, made.__dict__ = function.__kwdefaults__, dict(function.__dict__)
        return made


def without_fsdp(hooks: Any) -> Any:
    """A part's hooks without those that ``fully_shard`` has put there."""
    if not isinstance(hooks, OrderedDict):
        return hooks
    return OrderedDict((key, hook) for key, hook in hooks.items() if not is_fsdp_hook(hook))


class Twin:
    """One call's twin of a module.

    Args:
        parts: the user's module and all in it, each once, itself first.
        values: what stands in a parameter's place, by the parameter's ``id``; others stay as they are.
        tracked: False: normalisation in training mode leaves its running statistics alone (``torch.vmap`` cannot update them).
        packing: what makes shards among the values whole as the module reads them; None: there are none.
    """

    def __init__(
        self,
        parts: Sequence[nn.Module],
        values: Mapping[int, Any],
        tracked: bool = True,
        packing: Packing | None = None,
    ) -> None:
        self.parts = parts
        places: dict[int, Any] = dict(values)
        self.twins: list[nn.Module] = []
        for part in parts:
            twin = places[id(part)] = object.__new__(type(part))
            self.twins.append(twin)
            for buffer in part._buffers.values():
                if buffer is not None and id(buffer) not in places:
                    places[id(buffer)] = buffer.clone()
        rebound = _Rebinding(places, packing)
        self.given: list[dict[str, Any]] = []
        for part, twin in zip(parts, self.twins, strict=True):
            held = vars(twin)
            held.update(vars(part))
            if CALL in held:
                del held[CALL], held[COPY]
            for name in held.keys() - _OF_EVERY_MODULE:
                if type(held[name]) not in _ATOMS:
                    held[name] = rebound(held[name])
            if packing is not None:
                held.update({name: without_fsdp(held[name]) for name in _HOOKS if held.get(name)})
            if any(map(held.get, _HOOKS)):
                held.update({name: rebound(held[name]) for name in _HOOKS if held.get(name)})
            if part._parameters:
                own = {n: p if p is None else places.get(id(p), p) for n, p in part._parameters.items()}
                held["_parameters"] = own if packing is None else packing.gathering(own)
            if part._buffers:
                held["_buffers"] = {n: b if b is None else places[id(b)] for n, b in part._buffers.items()}
            if part._modules:
                held["_modules"] = {n: m if m is None else places[id(m)] for n, m in part._modules.items()}
            if part._forward_hooks:  # they know the user's module, by identity
                hooks = (
                    (key, functools.partial(_called_with, hook, part))
                    for key, hook in part._forward_hooks.items()
                    if key in held["_forward_hooks"]
                )
                held["_forward_hooks"] = OrderedDict(hooks)
            if isinstance(part, _NEED_CARE):
                self._tame(part, twin, held, tracked)
            self.given.append(dict(held))
        self.root: nn.Module = self.twins[0]

    @staticmethod
    def _tame(part: nn.Module, twin: nn.Module, held: dict[str, Any], tracked: bool) -> None:
        """What a module would do that has no derivative, or none twice.

        Statistics that ``torch.vmap`` cannot update are left alone; an embedding that would write into its weight writes into a
        copy, and its sparse gradients are dense ones; torch's fused weight norm, whose second derivative is wrong, and
        hardsigmoid, which has none, are composed; recurrent layers do without cuDNN, whose kernels have none either.
        """
        if isinstance(part, nn.modules.batchnorm._NormBase):
            if not tracked and part.training and part.track_running_stats:
                held["track_running_stats"] = False
        elif isinstance(part, nn.Embedding | nn.EmbeddingBag):
            held["sparse"] = False
            if part.max_norm is not None:
                held["_parameters"] = dict(held["_parameters"].items())
                held["_parameters"]["weight"] = held["_parameters"]["weight"].detach().clone()
        elif isinstance(part, nn.Hardsigmoid):
            held["forward"] = composed_hardsigmoid
        elif isinstance(part, nn.RNNBase):
            held["forward"] = functools.partial(recurrent, type(part).forward, twin)
        elif isinstance(part, parametrizations._WeightNorm):
            held["forward"] = functools.partial(composed_weight_norm, dim=part.dim)

    def changes(self) -> Iterator[tuple[nn.Module, str, Any]]:
        """Attributes that the forward pass has set (a loss of a layer's own, a count), with the part of the user's module."""
        for part, twin, given in zip(self.parts, self.twins, self.given, strict=True):
            now = vars(twin)
            if len(now) == len(given) and all(map(operator.is_, now.values(), given.values())):
                continue
            originals = {id(twin): part for part, twin in zip(self.parts, self.twins, strict=True)}
            computed = {
                getattr(hook, "name", None) for hook in part._forward_pre_hooks.values()
            }  # weight norm, spectral norm
            for name, value in now.items():
                if name not in _OWN and name not in computed and value is not given.get(name, _MISSING):
                    yield part, name, originals.get(id(value), value)

    def carry_buffers_back(self) -> None:
        """Copies the buffers as the forward pass has left them into the user's module."""
        with torch.no_grad():
            for part, twin in zip(self.parts, self.twins, strict=True):
                for name, buffer in part._buffers.items():
                    now = twin._buffers.get(name)
                    if buffer is None or now is None or now is buffer:
                        continue
                    if now.shape == buffer.shape and now.dtype == buffer.dtype:
                        buffer.copy_(now.detach())  # detached: it may be a dual number
                    else:
                        part._buffers[name] = now.detach()


@contextlib.contextmanager
def in_place(module: nn.Module, values: Mapping[int, Tensor]) -> Iterator[None]:
    """The tensors in the places of the user's module itself, each place once, for the duration of the block."""
    taken: list[tuple[dict[str, Any], str, Any]] = []
    try:
        for part in module.modules():
            places: dict[str, Any] = part._parameters  # for plain tensors too
            for name, p in places.items():
                if p is not None and id(p) in values:
                    taken.append((places, name, p))
                    places[name] = values[id(p)]
        yield
    finally:
        for held, name, p in taken:
            held[name] = p

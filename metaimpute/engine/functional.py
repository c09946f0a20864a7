"""``nn.Module`` -> pure function of (parameters, buffers), safe to differentiate twice and in forward mode.

Every call runs a twin of the module (:mod:`.replica`), so BatchNorm's running statistics, which are written in place, are a
copy's, and whatever the module postpones to the backward pass still finds the parameters of its call. A training pass that
should update the statistics says so with :meth:`FunctionalModel.updating_buffers`. Kernels, noise and modes are
:mod:`.ambient`'s.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils import parametrize

from ..errors import UserError
from .ambient import CannotDifferentiate, exclusive
from .gathering import Packing, ShardedParams
from .references import Ways, other_ways, require_no_other_way
from .registry import describe_choices
from .repetition import holds_back, saw, set_attribute
from .replica import Twin, in_place, parts_of
from .sharded import Shards, is_sharded, unsupported

Params = dict[str, Tensor]


class HeadNotFound(UserError, ValueError):
    """The model's output is not the output of a linear layer, so last-layer estimators do not apply."""


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


def _refusal(module: nn.Module) -> str | None:
    """Why a module cannot be taken as it is, with the way out."""
    for part in module.modules():
        kind = type(part)
        name = kind.__name__
        if isinstance(part, torch.jit.ScriptModule):
            return (
                f"{name} is a TorchScript module, whose parameters cannot be replaced; pass the module it was made from"
            )
        if kind.__module__.startswith("torch._dynamo") or part._compiled_call_impl is not None:
            return "the module is compiled; pass the module itself and wrap the inner loss: Compiled(inner_loss)"
        if isinstance(part, nn.parallel.DistributedDataParallel | nn.DataParallel):
            return (
                f"{name} would reduce no gradient here; pass its .module, and join both losses over processes: "
                "data_parallel(inner_loss), data_parallel(outer_loss)"
            )
        if name == "FullyShardedDataParallel":
            return f"{name} keeps its parameters in one flat tensor; shard the module by fully_shard(module) instead"
    lazy = next((n for n, p in module.named_parameters() if nn.parameter.is_lazy(p)), None)
    if lazy is not None:
        return f"the parameter '{lazy}' has no shape yet; run the module once on a batch before it is passed"
    return unsupported(module)


def require_taken(module: nn.Module, shards: bool = False) -> None:
    """Raises:
    CannotDifferentiate: for a module that cannot be taken as it is; for one in shards where they are not for the caller."""
    reason = _refusal(module)
    if reason is None and not shards and is_sharded(module):
        reason = (
            "the module's parameters are in shards, which an inner block does not know of; use hypergradient() with "
            "FunctionalModel(module) and data_parallel(loss, sharded=model)"
        )
    if reason is not None:
        raise CannotDifferentiate(reason)


def require_no_max_norm(part: nn.Module | None, name: str) -> None:
    """Raises:
    CannotDifferentiate: for an embedding that normalises its weight as it goes."""
    if isinstance(part, nn.Embedding | nn.EmbeddingBag) and part.max_norm is not None:
        raise CannotDifferentiate(
            f"'{name}' has max_norm, which changes its weight in place whenever it is used and has no derivative; "
            "set max_norm=None and normalise the rows in forward, or freeze the weight"
        )


class FunctionalModel:
    """A module as a pure function ``model(params, *inputs)``.

    Args:
        module: any ``nn.Module``. Its trainable parameters are :attr:`params`; frozen parameters and buffers are read
            from the module itself. Tied weights are one parameter. Of a module that ``fully_shard`` was applied to
            :attr:`params` are this process's shards (:mod:`.sharded`).
        head: dotted name of the last linear layer. Default: the last ``nn.Linear`` in registration order. Only the
            ``approx`` and ``head`` estimators look at it.
    """

    def __init__(self, module: nn.Module, head: str | None = None) -> None:
        if not isinstance(module, nn.Module):
            raise CannotDifferentiate(f"FunctionalModel takes an nn.Module, not {type(module).__name__}")
        require_taken(module, shards=True)
        self.module = module
        self.shards = Shards(module)
        self._update_buffers = False
        self._carried: Params | None = None
        self._parts: tuple[nn.Module, ...] = ()
        self._by_prefix: dict[str, nn.Module] = {}
        self._slots: dict[str, tuple[str, str, nn.Module | None]] = {}
        self._ways = Ways(False, False)
        self._sizes: list[int] = []
        self._aliases: dict[str, list[str]] = {}
        self._learn_names()
        linear = [name for name, part in module.named_modules() if isinstance(part, nn.Linear)]
        if head is not None and head not in linear:
            raise HeadNotFound(f"'{head}' is not a linear layer of the model; linear layers: {', '.join(linear)}")
        self._head = head or (linear[-1] if linear else None)

    def _learn_names(self) -> None:
        """What follows from which parts the module has, and changes only when one is put in or taken out."""
        self._parts = parts_of(self.module)
        self._by_prefix, self._slots = dict(self.module.named_modules(remove_duplicate=False)), {}
        self._ways = other_ways(self.module)
        if self.shards and any(self._ways):
            raise CannotDifferentiate(
                "a part of this sharded module is also reached by a way that torch does not know of (an object, a global name), "
                "where its shards would be used as they are; register the part as a submodule"
            )
        self._sizes = self._attributes()
        first: dict[int, str] = {}
        self._aliases = {}
        for name, p in [
            (n, p)
            for prefix, part in self.module.named_modules()
            for n, p in part.named_parameters(prefix, recurse=False, remove_duplicate=False)
        ]:
            self._aliases.setdefault(first.setdefault(id(p), name), []).append(name)

    @property
    def params(self) -> Params:
        """Trainable parameters by name, the module's own tensors (not copies)."""
        # another thread's call may have its own tensors in place
        self.shards.settle()
        with exclusive() if self._ways.to_parts else contextlib.nullcontext():
            found: Params = {name: p for name, p in self.module.named_parameters() if p.requires_grad}
        return self.shards.local(found) if self.shards else found

    def whole(self, params: Mapping[str, Tensor]) -> Params:
        """Parameters of a sharded module in full, from every process's shards; all processes call it. Of others: as they are."""
        return self.shards.whole(params) if self.shards else dict(params)

    def _attributes(self) -> list[int]:
        """How many attributes each part has: one that is added may be another way to a part."""
        return [len(vars(part)) for part in self._parts]

    @contextlib.contextmanager
    def _in_place_too(self, values: dict[int, Tensor]) -> Iterator[None]:
        with exclusive(), in_place(self.module, values):
            yield

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

    def _slot(self, name: str) -> tuple[str, str, nn.Module | None]:
        """Where a name leads: the part's own name, the parameter's in the part, and the part, None where there is none."""
        prefix, _, leaf = name.rpartition(".")
        self._slots[name] = prefix, leaf, self._by_prefix.get(prefix)
        return self._slots[name]

    def _places(self, params: Mapping[str, Tensor]) -> dict[int, Tensor]:
        """The given tensors by the ``id`` of the parameter or buffer in whose place they stand."""
        if not isinstance(params, Mapping):
            raise CannotDifferentiate(
                f"a FunctionalModel takes its parameters as a dict by name, not {type(params).__name__}"
            )
        values: dict[int, Any] = {}
        if self.shards and not isinstance(params, ShardedParams):
            self.shards.require_whole(params)
        for name, value in (params.held if isinstance(params, ShardedParams) else params).items():
            prefix, leaf, part = self._slots.get(name) or self._slot(name)
            own = None if part is None else part._parameters.get(leaf, part._buffers.get(leaf))
            if own is None:
                known = [n for n, _ in self.module.named_parameters(remove_duplicate=False)]
                raise CannotDifferentiate(f"the model has no parameter '{name}'; {describe_choices(name, known)}")
            if values.setdefault(id(own), value) is not value:
                raise CannotDifferentiate(
                    f"'{name}' is tied to another parameter that was given another value; give one of them"
                )
            require_no_max_norm(part, prefix)
        return values

    def __call__(self, params: Params, *args: Any, **kwargs: Any) -> Any:
        """The module's output under ``params``; the module is left as it was, running statistics included.

        Raises:
            CannotDifferentiate: for a name that is no parameter's, or a module in a state with no derivative.
        """
        if torch.compiler.is_compiling():
            return self._traced(params, args, kwargs)
        if parametrize._cache_enabled:
            raise CannotDifferentiate(
                "parametrize.cached() would keep one step's weights for the next; take the step outside it"
            )
        self.look_again()
        return self.run(self._places(params), args, kwargs)

    def look_again(self) -> None:
        """Learns the module's parts anew where one was put in or taken out."""
        self.shards.settle()
        if parts_of(self.module) != self._parts or self._attributes() != self._sizes:
            self._learn_names()

    def run(self, values: dict[int, Tensor], args: Any, kwargs: Any) -> Any:
        """A call, given the tensors by the ``id`` of the parameter or buffer in whose place they stand."""
        packing = Packing() if self.shards else None
        if packing is not None:
            values = self.shards.values(values)
        twin = Twin(self._parts, values, not _inside_vmap(), packing)
        saw(tuple([part.training for part in self._parts]))
        if packing is not None:
            with packing.resharding():
                output = twin.root(*args, **kwargs)
        else:
            seen_from_outside = self._ways.to_parts or any(part._forward_hooks for part in self._parts)
            with self._in_place_too(values) if seen_from_outside else contextlib.nullcontext():
                output = twin.root(*args, **kwargs)
        if self._ways.to_parameters:
            require_no_other_way(output, values)
        for part, name, value in twin.changes():
            set_attribute(part, name, value)
        if self._update_buffers and not holds_back(self.module):
            twin.carry_buffers_back()
        return output

    def _traced(self, params: Params, args: Any, kwargs: Any) -> Any:
        """The call as torch.compile can follow it: tensors swapped in for the forward pass, each place once."""
        placed = {alias: value for name, value in params.items() for alias in self._aliases.get(name, [name])}
        if self._carried is not None:
            return functional_call(self.module, {**placed, **self._carried}, args, kwargs, tie_weights=False)
        buffers = {name: b.clone() for name, b in self.module.named_buffers()}
        with _untracked_statistics(self.module):
            output = functional_call(self.module, {**placed, **buffers}, args, kwargs, tie_weights=False)
        if self._update_buffers:
            holds_back(self.module)
        return output

    @contextlib.contextmanager
    def updating_buffers(self, enabled: bool = True) -> Iterator[None]:
        """Passes in this block carry their BatchNorm statistics into the module, as a training pass does."""
        before, self._update_buffers = self._update_buffers, enabled
        try:
            yield
        finally:
            self._update_buffers = before

    @contextlib.contextmanager
    def carrying(self, buffers: Params | None) -> Iterator[None]:
        """Passes that torch.compile follows in this block write running statistics into these tensors, by buffers' names."""
        before, self._carried = self._carried, buffers
        try:
            yield
        finally:
            self._carried = before

    def features(self, params: Params, *args: Any, **kwargs: Any) -> Tensor:
        """Input of the last linear layer, shape ``[batch, features]``.

        Raises:
            HeadNotFound: when the model's output is not that layer's output, unchanged.
        """
        names = self.head
        layer = self.module.get_submodule(self._head or "")
        seen: dict[str, Any] = {}

        def look(_: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
            seen.update(features=inputs[0], output=output, version=output._version, times=seen.get("times", 0) + 1)

        handle = layer.register_forward_hook(look)
        try:
            output = FunctionalModel.__call__(
                self, params, *args, **kwargs
            )  # as it comes, whatever a subclass makes of it
        finally:
            handle.remove()
        last = seen.get("output")
        unchanged = isinstance(last, Tensor) and last is output and last._version == seen["version"]
        unchanged = unchanged and seen["times"] == 1
        if not unchanged:
            raise HeadNotFound(
                f"the model's output is not that of its last linear layer ({names[0]}), used once and left as it is; "
                "name it with head=, or use an estimator that needs none"
            )
        features: Tensor = seen["features"]
        return features

    def readout(self, params: Params, features: Tensor) -> Tensor:
        """The last linear layer applied to ``features``, shape ``[batch, outputs]``."""
        names = self.head
        bias: Any = params[names[1]] if len(names) == 2 else self.module.get_submodule(self._head or "").bias
        return nn.functional.linear(features, params[names[0]], bias)

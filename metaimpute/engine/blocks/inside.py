"""Modules with a block's weights in place of their own, for as long as the block is open.

The block's tensors stand where the parameters stood, so that whatever looks at the module finds them: ``model.fc.weight``,
``model.parameters()``, ``state_dict()``. A call of the module, or of any part of it, runs a twin (:mod:`.replica`), so that what
is postponed finds the weights of its call, operations have second derivatives, and running statistics are the block's.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..ambient import CannotDifferentiate
from ..functional import FunctionalModel, require_no_max_norm
from ..rebuilt import Flags, flags_as_then
from ..replica import CALL, COPY, parts_of
from .beside import Others, gated, is_tracking
from .checkpoints import checkpoints_wrapped, inside_a_twin
from .scalers import scaled_losses_marked
from .unused import Use

_open: list[Inside] = []  # innermost last; one thread has blocks open at a time (:func:`.ambient.exclusive`)


def of_the_user(tensor: Tensor) -> Tensor:
    """The parameter in whose place a tensor stands; the tensor itself where it stands in none."""
    for block in reversed(_open):
        for name, held in block.held.items():
            if held is tensor:
                return block.originals[name]
    return tensor


def others_are_open(block: Inside) -> bool:
    """Whether another block than this one is."""
    return any(one is not block for one in _open)


def _no_copy(memo: Any) -> Any:
    raise CannotDifferentiate(
        "a module cannot be copied while a block has its weights in place; copy it before the block, or load model.state_dict() "
        "into the copy"
    )


class _Call:
    """What a part's call is while a block is open."""

    def __init__(self, inside: Inside, part: nn.Module) -> None:
        self._inside, self._part = inside, part

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._inside.call(self._part, args, kwargs)

    def __reduce__(self) -> Any:
        raise CannotDifferentiate(
            "a module cannot be pickled while a block has its weights in place; save model.state_dict()"
        )


class Inside:
    """The modules of one block.

    Args:
        root: a module that has them all. originals: the user's parameters that the block moves, by name.

    Attributes:
        held: the block's tensors by name. use: whether the modules have been called. others: what the step that is being taken
            said of the steps of other blocks.
    """

    def __init__(self, root: nn.Module, originals: Mapping[str, Tensor]) -> None:
        self.root, self.originals = root, dict(originals)
        self.held: dict[str, Tensor] = {}
        self.use = Use()
        self.others: Others | None = None
        self._buffers: dict[int, tuple[Tensor, Tensor]] = {}  # the user's, by its id, and the block's
        self._models: dict[int, FunctionalModel] = {}
        self._slots: list[tuple[dict[str, Any], str, str]] = []

    @property
    def is_open(self) -> bool:
        return self in _open

    @contextlib.contextmanager
    def open(self, params: Mapping[str, Tensor]) -> Iterator[None]:
        """The tensors are in place in this block; after it the modules are as they were, but for what they set themselves."""
        parts, undo = parts_of(self.root), contextlib.ExitStack()
        with undo:
            names = {id(p): name for name, p in self.originals.items()}
            for part in parts:
                _set(vars(part), CALL, _Call(self, part), undo)
                _set(vars(part), COPY, _no_copy, undo)
            for model in self.root if isinstance(self.root, nn.ModuleList) else [self.root]:
                self._models[id(model)] = FunctionalModel(model)  # before its parameters are out of sight
            self._slots = []
            for part in parts:
                places: dict[str, Any] = part._parameters  # for plain tensors too
                for leaf, p in places.items():
                    name = None if p is None else names.get(id(of_the_user(p)))
                    if name is not None:
                        require_no_max_norm(part, name.rpartition(".")[0])
                        self._slots.append((places, leaf, name))
                        _set(places, leaf, p, undo)
                places_of_buffers: dict[str, Any] = part._buffers
                for leaf, buffer in places_of_buffers.items():
                    if buffer is not None:
                        if buffer.requires_grad and leaf not in vars(part):
                            raise CannotDifferentiate(
                                f"buffer '{leaf}' of a {type(part).__name__} requires a gradient, and a block has buffers of its "
                                "own; hand that tensor to the loss, or set it as a plain attribute"
                            )
                        _, own = self._buffers.setdefault(id(buffer), (buffer, buffer.detach().clone()))
                        _set(places_of_buffers, leaf, own, undo)
            undo.enter_context(checkpoints_wrapped(self._as_now))
            undo.enter_context(scaled_losses_marked())
            for block in _open:
                block.use.since = True  # this one may begin at its weights
            _open.append(self)
            undo.callback(_open.remove, self)
            self.put(params)
            yield

    def put(self, params: Mapping[str, Tensor]) -> None:
        """Puts other tensors in place."""
        self.held, self.use.since = dict(params), False
        for places, leaf, name in self._slots:
            places[leaf] = self.held[name]

    def gated(self, params: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """New weights, to be put in place: where other blocks are open, such as their steps do not look behind unasked."""
        if not others_are_open(self) or not is_tracking(params):
            return dict(params)
        own = weakref.ref(self)

        def is_open() -> Inside | None:
            found = own()
            return found if found is not None and found.is_open else None

        return gated(is_open, params)

    def is_covered(self) -> bool:
        """Whether a block inside this one has its own weights in these places."""
        own = set(map(id, self.originals.values()))
        return any(own & set(map(id, later.originals.values())) for later in _open[_open.index(self) + 1 :])

    def displaced(self) -> str | None:
        """The name of a parameter in whose place something else was put."""
        return next((name for places, leaf, name in self._slots if places.get(leaf) is not self.held[name]), None)

    def call(self, part: nn.Module, args: Any, kwargs: Any) -> Any:
        """A part's call, under the weights of all blocks that are open."""
        values: dict[int, Tensor] = {}
        for block in _open:
            block.use.ever = block.use.since = True
            values.update((id(p), block.held[name]) for name, p in block.originals.items())
        model = self._models.get(id(part))
        if model is None:
            model = self._models[id(part)] = FunctionalModel(part)
        model.look_again()
        with model.updating_buffers(), inside_a_twin():
            return model.run(values, args, kwargs)

    def buffers(self) -> list[Tensor]:
        """The block's buffers."""
        return [own for _, own in self._buffers.values()]

    def modes(self) -> list[tuple[nn.Module, bool]]:
        """Every part, and whether it is in training mode."""
        return [(part, part.training) for part in parts_of(self.root)]

    def flags(self) -> Flags:
        """Every parameter of the user's, and whether it requires a gradient."""
        own = set(map(id, self.held.values()))
        here = [
            p for part in parts_of(self.root) for p in part._parameters.values() if p is not None and id(p) not in own
        ]
        return [(p, p.requires_grad) for p in [*self.originals.values(), *here] if p.is_leaf]

    @contextlib.contextmanager
    def as_then(
        self,
        params: Mapping[str, Tensor],
        buffers: Sequence[Tensor],
        modes: Sequence[tuple[nn.Module, bool]],
        flags: Flags,
    ) -> Iterator[None]:
        """These weights, buffers, modes and flags for the duration of the block, whether or not the modules are open."""
        held, since, now, before = self.held, self.use.since, self.modes(), [b.clone() for b in self.buffers()]
        try:
            _fill(self.buffers(), buffers)
            for part, training in modes:
                part.training = training
            with flags_as_then(flags):
                if self.is_open:
                    self.put(params)
                    yield
                else:
                    with self.open(params):
                        yield
        finally:
            for part, training in now:
                part.training = training
            _fill(self.buffers(), before)
            if self.is_open:
                self.put(held)
            self.held, self.use.since = held, since

    def _as_now(self) -> Callable[[], contextlib.AbstractContextManager[None]]:
        """What puts weights, buffers, modes and flags in place as they are now."""
        find, params, buffers, modes = self.later(), self.held, [b.clone() for b in self.buffers()], self.modes()
        flags = self.flags()
        return lambda: find().as_then(params, buffers, modes, flags)

    def later(self) -> Callable[[], Inside]:
        """What finds this, or one like it when it is gone: a graph that held it would hold its own end, and never be freed."""
        own, root, originals, buffers = weakref.ref(self), self.root, self.originals, self._buffers

        def find() -> Inside:
            found = own()
            if found is None:
                found = Inside(root, originals)
                found._buffers = buffers
            return found

        return find

    def write_back(self) -> None:
        """Copies the block's weights and buffers into the user's."""
        with torch.no_grad():
            for name, p in self.originals.items():
                p.copy_(self.held[name])
            for theirs, own in self._buffers.values():
                theirs.copy_(own)


def _set(held: dict[str, Any], name: str, value: Any, undo: contextlib.ExitStack) -> None:
    """Sets an entry until ``undo``."""
    if name in held:
        undo.callback(held.__setitem__, name, held[name])
    else:
        undo.callback(held.pop, name, None)
    held[name] = value


def _fill(buffers: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    with torch.no_grad():
        for buffer, value in zip(buffers, values, strict=True):
            buffer.copy_(value)

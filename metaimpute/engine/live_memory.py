"""Bytes of live tensors, counted op by op: what a computation holds, not what an allocator has kept."""

from __future__ import annotations

import weakref
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from .pytree import leaves_of


class LiveBytes(TorchDispatchMode):
    """Within the block, follows every storage that an operation creates.

    Storages that existed before the block do not count, whatever happens to them inside.

    Attributes:
        now: bytes that were created inside and are still alive. peak: the largest value of ``now`` so far.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: dict[int, weakref.ref[Any]] = {}

    def ignore(self, tree: Any) -> None:
        """Storages of these tensors do not count: call it with what a caller holds anyway."""
        for leaf in leaves_of(tree):
            if isinstance(leaf, Tensor):
                storage = leaf.untyped_storage()
                self._known[storage._cdata] = weakref.ref(storage, self._forget(storage._cdata, 0))

    def reset_peak(self) -> None:
        self.peak = self.now

    def _forget(self, key: int, size: int) -> Any:
        def gone(_: Any) -> None:
            self.now -= size
            self._known.pop(key, None)

        return gone

    def _count(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._known:
            return
        size = storage.nbytes()
        self._known[key] = weakref.ref(storage, self._forget(key, size))
        self.now += size
        self.peak = max(self.peak, self.now)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        inputs = [leaf for leaf in leaves_of((args, kwargs or {})) if isinstance(leaf, Tensor)]
        before = {leaf.untyped_storage()._cdata for leaf in inputs}
        found = func(*args, **(kwargs or {}))
        for leaf in leaves_of(found):
            if isinstance(leaf, Tensor) and leaf.untyped_storage()._cdata not in before:
                self._count(leaf)
        return found

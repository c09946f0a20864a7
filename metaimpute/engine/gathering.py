"""Parameters in shards: every process holds some rows of each, and the network is given the whole of one while it is used.

Two operators are each other's derivative, as those of :mod:`.across_ranks` are:

    GatherShards     everyone's rows -> the whole;        cotangents summed over processes, own rows kept
    ScatterToShards  wholes summed, own rows kept;        cotangent's rows gathered

so that what is computed with a :func:`~torch.distributed.fsdp.fully_shard` module (FSDP2, Zhao et al., VLDB 2023) has derivatives
of every order. FSDP's own hooks, whose gather and reduction lie outside of autograd, take no part in it.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd import Function

from .across_ranks import OtherProgram, Ranks, collective

# the names that these have from torch 2.14 on, and before
_all_gather: Any = getattr(dist, "all_gather_single", None) or getattr(dist, "all_gather_into_tensor", None)
_reduce_scatter: Any = getattr(dist, "reduce_scatter_single", None) or getattr(dist, "reduce_scatter_tensor", None)


ENDS, STARTS = -1, -2  # in the place of a parameter's number: that a loss ends here, or begins
_SAID = 4


class Place(NamedTuple):
    """Where the rows of a parameter are: process r of ``ranks`` has those from ``r * each``, the last ones have fewer or none.

    Attributes:
        number: of the parameter, by which processes tell that they are at the same one.
    """

    ranks: Ranks
    rows: int
    number: int = 0

    @property
    def each(self) -> int:
        return -(-self.rows // self.ranks.size)

    @property
    def own(self) -> slice:
        """This process's rows."""
        first = min(self.ranks.rank * self.each, self.rows)
        return slice(first, min(first + self.each, self.rows))


def require_same(ranks: Ranks, number: int, device: torch.device, said: Sequence[int] = ()) -> list[list[int]]:
    """A message of a few numbers, before one whose meaning goes with the order of messages. Apart from autograd and torch.func.

    Args:
        number: of the parameter that is next, or what stands in its place. device: of the message, where the group has no
            backend for the CPU. said: up to four numbers that every process is told.

    Raises:
        OtherProgram: where other processes are at another parameter, or at the end of their loss.
    """
    with torch._C._DisableFuncTorch():
        where = torch.device("cpu") if "cpu:" in dist.get_backend_config(ranks.group) else device
        numbers = [
            number,
            *said,
            *[0] * (_SAID - len(said)),
        ]  # as many at all places, since backends die of other sizes
        mine = torch.tensor(numbers, dtype=torch.int64, device=where)
        every = mine.new_empty(ranks.size * len(numbers))
        collective(lambda: _all_gather(every, mine, group=ranks.group))
        found: list[list[int]] = every.view(ranks.size, -1).tolist()
    if any(other[0] != number for other in found):
        raise OtherProgram(
            "the processes use the parameters, which are in shards, in another order or not the same ones; let every process "
            "evaluate the same parts of the model (a choice drawn inside it is drawn by each process for itself)"
        )
    return [other[1 : 1 + len(said)] for other in found]


def _padded(rows: Tensor, count: int) -> Tensor:
    """Rows with zeros behind them, so that every process has as many."""
    if len(rows) == count:
        return rows.contiguous()
    return torch.cat([rows, rows.new_zeros(count - len(rows), *rows.shape[1:])])


def _gathered(place: Place, shard: Tensor) -> Tensor:
    require_same(place.ranks, 2 * place.number, shard.device)
    mine = _padded(shard.detach().resolve_conj().resolve_neg(), place.each)
    whole = mine.new_empty(place.each * place.ranks.size, *mine.shape[1:])
    collective(lambda: _all_gather(whole, mine, group=place.ranks.group))
    return whole[: place.rows]


def _scattered(place: Place, whole: Tensor) -> Tensor:
    require_same(place.ranks, 2 * place.number + 1, whole.device)
    every = _padded(whole.detach().resolve_conj().resolve_neg(), place.each * place.ranks.size)
    mine = every.new_empty(place.each, *every.shape[1:])
    collective(lambda: _reduce_scatter(mine, every, group=place.ranks.group))
    return mine[: place.own.stop - place.own.start]


class GatherShards(Function):
    """From each process's rows of a parameter to the parameter, which all have alike."""

    @staticmethod
    def forward(place: Place, shard: Tensor) -> Tensor:
        return _gathered(place, shard)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.place = inputs[0]

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> Any:
        return None, ScatterToShards.apply(ctx.place, slope)

    @staticmethod
    def jvp(ctx: Any, place: Any, tangent: Tensor) -> Any:
        return GatherShards.apply(ctx.place, tangent)

    @staticmethod
    def vmap(info: Any, in_dims: Any, place: Place, shard: Tensor) -> Any:
        return GatherShards.apply(place, shard.movedim(in_dims[1], 1)), 1


class ScatterToShards(Function):
    """From what each process has computed, in the parameter's shape, to its rows of the sum."""

    @staticmethod
    def forward(place: Place, whole: Tensor) -> Tensor:
        return _scattered(place, whole)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.place = inputs[0]

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> Any:
        return None, GatherShards.apply(ctx.place, slope)

    @staticmethod
    def jvp(ctx: Any, place: Any, tangent: Tensor) -> Any:
        return ScatterToShards.apply(ctx.place, tangent)

    @staticmethod
    def vmap(info: Any, in_dims: Any, place: Place, whole: Tensor) -> Any:
        return ScatterToShards.apply(place, whole.movedim(in_dims[1], 1)), 1


@dataclass(frozen=True)
class Shard:
    """One process's rows of a parameter, in the place of the parameter until it is used."""

    place: Place
    rows: Tensor

    def whole(self) -> Tensor:
        """The parameter. A message to all processes, at every call."""
        found: Tensor = GatherShards.apply(self.place, self.rows)
        return found


class ShardedParams(Mapping[str, Tensor]):
    """Parameters by name as a joined loss is given them: each whole as it is read, and forgotten thereafter."""

    def __init__(self, held: Mapping[str, Tensor | Shard]) -> None:
        self.held = held

    def __getitem__(self, name: str) -> Tensor:
        found = self.held[name]
        return found.whole() if isinstance(found, Shard) else found

    def __iter__(self) -> Iterator[str]:
        return iter(self.held)

    def __len__(self) -> int:
        return len(self.held)


class Gathering(dict[str, Any]):
    """A module's own parameters, of which shards are made whole when they are read."""

    def __init__(self, held: Mapping[str, Any], kept: Packing) -> None:
        super().__init__(held)
        self._packing = kept

    def __getitem__(self, name: str) -> Any:
        found = super().__getitem__(name)
        return self._packing.whole(found) if isinstance(found, Shard) else found

    def get(self, name: str, default: Any = None) -> Any:
        return self[name] if name in self else default  # noqa: SIM401

    def values(self) -> Any:
        return [self[name] for name in self]

    def items(self) -> Any:
        return [(name, self[name]) for name in self]


class Packing:
    """Whole parameters of one call, which autograd keeps as shards and gathers again when the reverse pass needs them.

    What autograd keeps of a parameter is the parameter or a view of it (a transpose). Both are known by their storage, for as
    long as a gathered tensor lives.
    """

    def __init__(self) -> None:
        self._alive: dict[int, tuple[weakref.ref[Tensor], Shard]] = {}

    def whole(self, shard: Shard) -> Tensor:
        found = shard.whole()
        if torch._C._functorch.is_functorch_wrapped_tensor(found):  # autograd keeps it as it is there
            return found
        self._alive[found.untyped_storage().data_ptr()] = weakref.ref(found), shard
        return found

    def gathering(self, held: Mapping[str, Any]) -> dict[str, Any]:
        """A module's own parameters, whole as they are read."""
        return Gathering(held, self) if any(isinstance(p, Shard) for p in held.values()) else dict(held)

    def _pack(self, kept: Tensor) -> Any:
        plain = type(kept) in (Tensor, torch.nn.Parameter) and kept.layout is torch.strided
        if not plain or kept._is_zerotensor() or kept.is_conj() or kept.is_neg() or not kept.numel():
            return kept
        known = self._alive.get(kept.untyped_storage().data_ptr())
        if known is None or (alive := known[0]()) is None or alive.dtype != kept.dtype:
            return kept
        shard = known[1]
        same = Shard(shard.place, shard.rows.detach())
        return same, kept.size(), kept.stride(), kept.storage_offset()

    def _unpack(self, packed: Any) -> Tensor:
        if isinstance(packed, Tensor):
            return packed
        shard, size, stride, offset = packed
        with torch.no_grad():
            found: Tensor = shard.whole().as_strided(size, stride, offset)
            return found

    def resharding(self) -> contextlib.AbstractContextManager[Any]:
        """Where autograd keeps no whole parameter. Inside torch.func, which takes no such hooks, it keeps them."""
        if torch._C._functorch.peek_interpreter_stack() is not None:
            return contextlib.nullcontext()
        return torch.autograd.graph.saved_tensors_hooks(self._pack, self._unpack)


def is_fsdp_hook(hook: Any) -> bool:
    """Whether a module's hook is one that ``fully_shard`` put there."""
    return type(getattr(hook, "__self__", None)).__module__.startswith("torch.distributed.fsdp")

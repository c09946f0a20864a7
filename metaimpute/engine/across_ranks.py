"""Sums over the processes of a torch.distributed group, with derivatives of every order in both modes.

Two operators are each other's derivative (the pair f and g of Shoeybi et al., "Megatron-LM", 2019, section 3):

    CopyToRanks       value as it is;   cotangents summed over the processes
    ReduceFromRanks   values summed;    cotangent as it is

They lead from tensors that every process has alike to those that are its own, and back. Whatever is computed between them is a
process's own part; the sum, its gradient, the gradient's gradient and so on are then the same numbers on every process.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd import Function

from ..errors import INTERNAL, UserError


class LostProcess(UserError, RuntimeError):
    """Another process of the group has ended, or does not answer. Ends a command with exit code 1."""

    exit_code = INTERNAL


class OtherProgram(UserError, ValueError):
    """The processes of a group do not compute the same thing on their rows."""


@dataclass(frozen=True)
class Ranks:
    """The processes of a group, of which this one is number ``rank`` of ``size``."""

    rank: int
    size: int
    group: Any = None

    def rows(self, count: int) -> slice:
        """This process's part of so many rows of a joined batch.

        Raises:
            OtherProgram: where the rows cannot be dealt out evenly.
        """
        if count % self.size:
            raise OtherProgram(f"{count} rows cannot be dealt out evenly over {self.size} processes")
        each = count // self.size
        return slice(self.rank * each, (self.rank + 1) * each)


def ranks_of(group: Any = None) -> Ranks:
    """The processes of a group; default: all of them.

    Raises:
        OtherProgram: where torch.distributed has not been set up.
    """
    if not (dist.is_available() and dist.is_initialized()):
        raise OtherProgram(
            "torch.distributed has not been set up; call torch.distributed.init_process_group(...) first, or start with torchrun"
        )
    return Ranks(dist.get_rank(group), dist.get_world_size(group), group)


# what gloo, NCCL and the store say of a process that is gone or does not answer
_LOST = re.compile(
    r"closed by peer|reset by peer|peer closed|connection (was )?(likely )?(closed|reset|refused|aborted)|broken pipe|"
    r"no route to host|failed to connect|connectFullMesh failed|socket (unexpectedly )?closed|socket timeout|timed out|"
    r"wait timeout|application timeout|collective operation timeout|monitoredBarrier|read error|error in (recv|send)|"
    r"failed to (recv|send)|remote process|network error|unhandled system error|communicator was aborted|"
    r"nccl(System|Remote)Error",
    re.IGNORECASE,
)
_NO_BACKEND = re.compile(r"No backend type associated with device type (\w+)")


def collective(call: Callable[[], Any]) -> Any:
    """What a call of torch.distributed returns; what else goes wrong in it (memory, a device) is raised as it is.

    Raises:
        LostProcess: in the place of what torch's backends raise where another process is gone. OtherProgram: where the group
            has no backend for the tensors' device.
    """
    try:
        return call()
    except RuntimeError as error:
        said = str(error)
        without = _NO_BACKEND.search(said)
        if without is not None:
            raise OtherProgram(
                f"the group of processes has no backend for tensors on '{without[1]}'; set up one for each device in use: "
                "init_process_group('cpu:gloo,cuda:nccl')"
            ) from None
        gone = isinstance(error, (dist.DistNetworkError, dist.DistStoreError)) or _LOST.search(said)
        if isinstance(error, torch.OutOfMemoryError) or not gone:
            raise
        first = (said.splitlines() or [type(error).__name__])[0]
        raise LostProcess(
            f"another process of this group has ended or does not answer ({first[:120]}); its own last line says why"
        ) from None


class Leaf(NamedTuple):
    """What a tensor is like, so that one that has no value here still has its place."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device


@dataclass(frozen=True)
class Layout:
    """Tensors of one message. ``present``: positions of those that have a value in this process."""

    ranks: Ranks
    leaves: tuple[Leaf, ...]
    present: tuple[int, ...]

    @classmethod
    def of(cls, ranks: Ranks, values: Sequence[Tensor]) -> Layout:
        leaves = tuple(Leaf(tuple(v.shape), v.dtype, v.device) for v in values)
        return cls(ranks, leaves, tuple(range(len(leaves))))

    def batched(self, size: int) -> Layout:
        """The same with a first dimension of vmap's."""
        return replace(self, leaves=tuple(leaf._replace(shape=(size, *leaf.shape)) for leaf in self.leaves))


def _flat(value: Tensor) -> Tensor:
    return (torch.view_as_real(value.resolve_conj()) if value.is_complex() else value).reshape(-1)


def summed(layout: Layout, values: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The values that are present, summed over all processes, in one message for each dtype and device.

    Raises:
        OtherProgram: where another process has a value that this one has not. LostProcess: where one is gone.
    """
    here = dict(zip(layout.present, values, strict=True))
    buckets: dict[tuple[torch.dtype, torch.device], list[int]] = {}
    for position, leaf in enumerate(layout.leaves):
        buckets.setdefault((leaf.dtype, leaf.device), []).append(position)
    found: dict[int, Tensor] = {}
    for (dtype, device), positions in buckets.items():
        real = dtype.to_real() if dtype.is_complex else dtype
        sizes = [math.prod(layout.leaves[p].shape) * (2 if dtype.is_complex else 1) for p in positions]
        parts = [
            _flat(here[p].detach()) if p in here else torch.zeros(size, dtype=real, device=device)
            for p, size in zip(positions, sizes, strict=True)
        ]
        flags = torch.tensor([float(p in here) for p in positions], dtype=real, device=device)
        message = torch.cat([*parts, flags])
        collective(lambda message=message: dist.all_reduce(message, group=layout.ranks.group))  # type: ignore[misc]
        if any(p not in here for p in positions) and any(
            flag and p not in here for p, flag in zip(positions, message[-len(positions) :].tolist(), strict=True)
        ):
            raise OtherProgram(
                "a parameter took part in the loss of another process and not in this one's; let every process evaluate the "
                "same parts of the model"
            )
        pieces = torch.unsafe_split_with_sizes(message, [*sizes, len(positions)])
        for p, piece in zip(positions, pieces, strict=False):
            if p in here:
                shape = layout.leaves[p].shape
                found[p] = torch.ops.aten._unsafe_view(piece, [*shape, 2] if dtype.is_complex else list(shape))
                if dtype.is_complex:
                    found[p] = torch.view_as_complex(found[p]).clone()
    return tuple(found[p] for p in layout.present)


def _to_front(values: Sequence[Tensor], dims: Sequence[int | None], size: int) -> list[Tensor]:
    return [v.expand(size, *v.shape) if d is None else v.movedim(d, 0) for v, d in zip(values, dims, strict=True)]


class CopyToRanks(Function):
    """From tensors that all processes have alike to what each computes with them."""

    @staticmethod
    def forward(ranks: Ranks, *values: Tensor) -> Any:
        return tuple(value.view_as(value) for value in values)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.layout = Layout.of(inputs[0], inputs[1:])
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor | None) -> Any:
        present = tuple(i for i, slope in enumerate(slopes) if slope is not None)
        layout = replace(ctx.layout, present=present)
        found = dict(zip(present, ReduceFromRanks.apply(layout, *(slopes[i] for i in present)), strict=True))
        return (None, *(found.get(i) for i in range(len(slopes))))

    @staticmethod
    def jvp(ctx: Any, ranks: Any, *tangents: Tensor | None) -> Any:
        return tuple(None if tangent is None else tangent.view_as(tangent) for tangent in tangents)

    @staticmethod
    def vmap(info: Any, in_dims: Any, ranks: Ranks, *values: Tensor) -> Any:
        found = CopyToRanks.apply(ranks, *_to_front(values, in_dims[1:], info.batch_size))
        return found, (0,) * len(values)


class ReduceFromRanks(Function):
    """From what each process has computed to the sum, which all have alike."""

    @staticmethod
    def forward(layout: Layout, *values: Tensor) -> Any:
        return summed(layout, values)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.layout = inputs[0]
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor | None) -> Any:
        present = [i for i, slope in enumerate(slopes) if slope is not None]
        found = dict(zip(present, CopyToRanks.apply(ctx.layout.ranks, *(slopes[i] for i in present)), strict=True))
        return (None, *(found.get(i) for i in range(len(slopes))))

    @staticmethod
    def jvp(ctx: Any, layout: Any, *tangents: Tensor | None) -> Any:
        leaves = [ctx.layout.leaves[p] for p in ctx.layout.present]
        along = [
            torch.zeros(leaf.shape, dtype=leaf.dtype, device=leaf.device) if tangent is None else tangent
            for leaf, tangent in zip(leaves, tangents, strict=True)
        ]
        return ReduceFromRanks.apply(ctx.layout, *along)

    @staticmethod
    def vmap(info: Any, in_dims: Any, layout: Layout, *values: Tensor) -> Any:
        found = ReduceFromRanks.apply(layout.batched(info.batch_size), *_to_front(values, in_dims[1:], info.batch_size))
        return found, (0,) * len(values)


def copy_to_ranks(ranks: Ranks, values: Sequence[Tensor]) -> list[Tensor]:
    """Values that all processes have alike, for use with a process's own; gradients through them are summed over processes."""
    moving = [i for i, value in enumerate(values) if value.requires_grad]
    found = dict(enumerate(values))
    if moving:
        found |= dict(zip(moving, CopyToRanks.apply(ranks, *(values[i] for i in moving)), strict=True))
    return [found[i] for i in range(len(values))]


def reduce_from_ranks(ranks: Ranks, values: Sequence[Tensor]) -> list[Tensor]:
    """The sums over processes of values of their own, which all have alike."""
    return list(ReduceFromRanks.apply(Layout.of(ranks, values), *values)) if values else []

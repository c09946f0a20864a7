"""Inside one process's part of a joined loss (:mod:`.distributed`): sums and rows of all processes, noise of its own, BatchNorm
of all rows."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from .across_ranks import Ranks, copy_to_ranks, reduce_from_ranks
from .noise import derive_seed, fixed_rng

_active: contextvars.ContextVar[Ranks | None] = contextvars.ContextVar("ranks", default=None)


def shard_count() -> int:
    """In how many processes' parts the batch of the evaluation under way is; 1 outside a :func:`data_parallel` loss."""
    ranks = _active.get()
    return 1 if ranks is None else ranks.size


def shard_sum(value: Tensor) -> Tensor:
    """Inside a :func:`data_parallel` loss: a process's own ``value`` summed over all processes, differentiable; else itself.

    For what a loss divides by, where that is a sum over rows: ``each.sum() * shard_count() / shard_sum(weights.sum())`` is a
    mean whose mean over processes is that of the joined batch.
    """
    ranks = _active.get()
    if ranks is None:
        return value
    if not (value.is_floating_point() or value.is_complex()):
        value = value.to(torch.int64)  # so that a sum of bytes or of truth values is one
    return copy_to_ranks(ranks, reduce_from_ranks(ranks, [value]))[0]


def shard_rows(draw: Callable[[int], Tensor], count: int) -> Tensor:
    """``draw(n)``'s rows for the ``count`` rows of this process, where n is the number of all processes' rows together."""
    ranks = _active.get()
    if ranks is None:
        return draw(count)
    return draw(count * ranks.size)[ranks.rows(count * ranks.size)]


def _own_noise(ranks: Ranks) -> contextlib.AbstractContextManager[None]:
    """Noise of this process's own; inside a transform of torch.func, which has a rule of its own for noise, all have the same."""
    if torch._C._functorch.peek_interpreter_stack() is not None:
        return contextlib.nullcontext()
    seed = int(torch.randint(2**62, (), dtype=torch.int64, device="cpu"))
    return fixed_rng(derive_seed(seed, ranks.rank))


@contextlib.contextmanager
def within(ranks: Ranks, synchronised: bool = False) -> Iterator[None]:
    """A process's own part of an evaluation, with noise of its own.

    Args:
        synchronised: BatchNorm in training mode takes the statistics of all processes' rows together.
    """
    before = _active.set(ranks)
    try:
        with (
            _own_noise(ranks),
            _Synchronised(ranks) if synchronised else contextlib.nullcontext(),
        ):
            yield
    finally:
        _active.reset(before)


class _Synchronised(TorchFunctionMode):
    """In training mode, batch normalisation by the mean and variance of all processes' rows."""

    def __init__(self, ranks: Ranks) -> None:
        super().__init__()
        self.ranks = ranks

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.batch_norm:
            return _normalised(self.ranks, *args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _normalised(
    ranks: Ranks, rows: Tensor, running_mean: Tensor | None, running_var: Tensor | None, weight: Tensor | None = None,
    bias: Tensor | None = None, training: bool = False, momentum: float = 0.1, eps: float = 1e-5,
) -> Tensor:  # fmt: skip
    """``F.batch_norm``, in training mode with the statistics of the joined batch, composed so that it has every derivative."""
    if not training:
        return F.batch_norm(rows, running_mean, running_var, weight, bias, False, momentum, eps)
    given = rows.dtype
    rows = rows.float() if given in (torch.float16, torch.bfloat16) else rows  # statistics as torch's kernels take them
    along, shape = [0, *range(2, rows.ndim)], [1, -1, *[1] * (rows.ndim - 2)]
    count = rows.numel() // rows.shape[1] * ranks.size
    mean = shard_sum(rows.sum(along) / count)
    away = rows - mean.view(shape)
    variance = shard_sum(away.square().sum(along) / count)
    found = away * (variance + eps).rsqrt().view(shape)
    if weight is not None:
        found = found * weight.view(shape)
    if bias is not None:
        found = found + bias.view(shape)
    with torch.no_grad():
        unbiased = variance.detach() * (count / max(count - 1, 1))
        for running, now in ((running_mean, mean.detach()), (running_var, unbiased)):
            if running is not None:
                running.lerp_(now.to(running.dtype), momentum)
    return found.to(given)

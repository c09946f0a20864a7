"""Which examples each step sees, as a pure function of (seed, stream, step): resuming needs no sampler state."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..engine.noise import derive_seed


class StepSampler:
    """Shuffled passes over ``size`` examples, cut into batches; a pool smaller than the batch is passed over repeatedly.

    Args:
        size: examples in the pool. batch: examples per step. seed, stream: name the random stream.
    """

    def __init__(self, size: int, batch: int, seed: int, stream: int) -> None:
        if size < 1 or batch < 1:
            raise ValueError(f"cannot draw batches of {batch} from {size} examples")
        self.size, self.batch, self.seed, self.stream = size, batch, seed, stream
        self._orders: dict[int, Tensor] = {}

    def __call__(self, step: int) -> Tensor:
        """Positions of the examples of ``step``, shape ``[batch]``."""
        first = step * self.batch
        epochs = range(first // self.size, (first + self.batch - 1) // self.size + 1)
        parts = []
        for epoch in epochs:
            start = max(first - epoch * self.size, 0)
            stop = min(first + self.batch - epoch * self.size, self.size)
            parts.append(self._order(epoch)[start:stop])
        return torch.cat(parts)

    def _order(self, epoch: int) -> Tensor:
        if epoch not in self._orders:
            if len(self._orders) > 8:
                self._orders.clear()
            rng = torch.Generator(device="cpu").manual_seed(derive_seed(self.seed, self.stream, epoch))
            self._orders[epoch] = torch.randperm(self.size, generator=rng, device="cpu")
        return self._orders[epoch]


class FoldSampler:
    """Shuffled passes over parts of a pool in turn: step t sees part ``t mod n``.

    Args:
        parts: positions in the pool. batch, seed, stream: as of :class:`StepSampler`, which goes over each part by itself.
    """

    def __init__(self, parts: Sequence[Tensor], batch: int, seed: int, stream: int) -> None:
        self.parts = list(parts)
        self._within = [
            StepSampler(len(part), batch, derive_seed(seed, stream, place), stream)
            for place, part in enumerate(self.parts)
        ]

    def __call__(self, step: int) -> Tensor:
        """Positions of the examples of ``step``, shape ``[batch]``."""
        turn, place = divmod(step, len(self.parts))
        return self.parts[place][self._within[place](turn)]

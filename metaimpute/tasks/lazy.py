"""Pools whose examples stay where they are until a batch asks for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from .base import Pool


class Indexed(Sequence[Any]):
    """Some items of a larger sequence, in a given order; nothing is copied."""

    def __init__(self, base: Any, rows: Sequence[int]) -> None:
        self.base, self.rows = base, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, position: Any) -> Any:
        return self.base[self.rows[position]]


@dataclass(frozen=True)
class LazyPool(Pool):
    """A pool of texts or files whose subsets stay unread."""

    def subset(self, index: Tensor) -> LazyPool:
        targets = None if self.targets is None else self.targets[index]
        return LazyPool(Indexed(self.inputs, index.tolist()), targets, self.ids[index])

"""Examples that stay where they are until they are asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from torch import Tensor

from .base import Pool

T = TypeVar("T")


@dataclass(frozen=True)
class Sized(Generic[T]):
    """Items that are made one by one, with how many there will be."""

    items: Iterator[T]
    count: int

    def __iter__(self) -> Iterator[T]:
        return self.items

    def __length_hint__(self) -> int:
        return self.count


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

"""Rows of numbers in memory as a task, for the scikit-learn estimators."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..batches import ViewKind
from ..batches.outputs import Classes, Output
from .base import Pool, Task, TaskData
from .table_inputs import table_view


@dataclass
class ArrayTask(Task):
    """Rows of standardised numbers in memory; views as those of one's own table."""

    name = "arrays"
    input_kind = "vector"

    inputs: Tensor = field(default_factory=lambda: torch.zeros(0, 1))
    targets: Tensor = field(default_factory=lambda: torch.zeros(0))
    known: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.bool))
    of: Output = field(default_factory=lambda: Classes(2))
    weak: float = 0.05
    strong: float = 0.1
    swap: float = 0.2

    @property
    def output(self) -> Output:
        return self.of

    @property
    def input_shape(self) -> tuple[int, ...]:  # type: ignore[override]  # the array's
        return (self.inputs.shape[1],)

    def check(self) -> None:
        """The estimator has checked its arrays."""

    def forget(self) -> None:
        """Lets go of the rows, which no prediction needs."""
        self.inputs, self.targets, self.known = self.inputs[:0], self.targets[:0], self.known[:0]

    def load(self, seed: int) -> TaskData:
        """Labelled rows, and all rows as unlabelled ones."""
        every = Pool(self.inputs, None, torch.arange(len(self.inputs)))
        rows = self.known.nonzero()[:, 0]
        labelled = Pool(self.inputs[rows], self.targets[rows], rows)
        nothing = labelled.subset(torch.arange(0))
        return TaskData(labelled, every, nothing, nothing, "arrays")

    def view(self, raw: Tensor, kind: ViewKind, generator: torch.Generator) -> Tensor:
        if kind == "none":
            return raw
        noise, swap = (self.weak, 0.0) if kind == "weak" else (self.strong, self.swap)
        width = raw.shape[1]
        return table_view(
            raw, generator, noise=noise, swap=swap, column_of=torch.arange(width), measured=torch.ones(width)
        )

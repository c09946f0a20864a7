"""Labels of a few fixed unlabelled examples over training, for a report. Nothing in training depends on it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..batches.outputs import Classes, Landmarks, Output, Standardized
from ..engine.noise import derive_seed
from ..rundir.layout import LABELS
from ..rundir.logs import cut_back
from ..streams import Stream
from ..tasks.base import Pool, Task
from .evaluation import predictions

EXAMPLES = 12


class Trajectories:
    """What the network, as it trains, says of twelve unlabelled examples, drawn by seed, at every logged step.

    A line of ``labels.jsonl`` is ``{"step", "ids", "labels", "truth", "kind"}``: probabilities ``[examples][classes]``, or values
    in the task's own order and units; true classes, or values, where they are known, else null; ``classes``, ``values``, or
    ``points``, of which each has two values, x and y in pixels.
    """

    def __init__(
        self,
        folder: Path,
        task: Task,
        module: nn.Module,
        pool: Pool,
        seed: int,
        device: torch.device,
        resume_step: int,
        say: Callable[[str], None],
    ) -> None:
        self.path, self.task, self.module, self.device = folder / LABELS, task, module, device
        rng = torch.Generator(device="cpu").manual_seed(derive_seed(seed, Stream.TRAJECTORIES))
        self.pool = pool.subset(torch.randperm(len(pool), generator=rng, device="cpu")[:EXAMPLES].sort().values)
        self.ids = task.row_names(self.pool)
        cut_back(self.path, resume_step, say)

    def write(self, step: int) -> None:
        output = self.task.output
        labels = self._own(output.activate(predictions(self.module, self.task, self.pool, EXAMPLES, self.device)))
        line = {
            "step": step,
            "ids": self.ids,
            "labels": _rounded(labels),
            "truth": self._truth(),
            "kind": kind_of(output),
        }
        with self.path.open("a") as stream:
            stream.write(json.dumps(line) + "\n")

    def _own(self, values: Tensor) -> Tensor:
        """Values in their own units; probabilities as they are."""
        return self.task.output.original(values) if isinstance(self.task.output, Standardized) else values

    def _truth(self) -> list[Any] | None:
        known = self.pool.targets
        if known is None:
            return None
        if isinstance(self.task.output, Classes):
            return [int(target) if target >= 0 else None for target in known]
        rows = self._own(known.flatten(1) if known.ndim > 1 else known[:, None])
        return [row if all(map(math.isfinite, row)) else None for row in _rounded(rows)]


def kind_of(output: Output) -> str:
    """What the numbers of a label are."""
    return "classes" if isinstance(output, Classes) else "points" if isinstance(output, Landmarks) else "values"


def _rounded(values: Tensor) -> list[list[float]]:
    return [[float(f"{value:.4g}") for value in row] for row in values.tolist()]

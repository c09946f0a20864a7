"""Labels of a few fixed unlabelled examples over training, for a report. Nothing in training depends on it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..batches.outputs import Classes
from ..engine.noise import derive_seed
from ..rundir.layout import LABELS
from ..rundir.logs import cut_back
from ..streams import Stream
from ..tasks.base import Pool, Task
from .evaluation import predictions

EXAMPLES = 12


class Trajectories:
    """What the network, as it trains, says of twelve unlabelled examples, drawn by seed, at every logged step.

    A line of ``labels.jsonl`` is ``{"step", "ids", "labels", "truth"}``: probabilities ``[examples][classes]``, or values in
    the task's own order; true classes where they are known, else null.
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
        labels = self.task.output.activate(predictions(self.module, self.task, self.pool, EXAMPLES, self.device))
        line = {"step": step, "ids": self.ids, "labels": [[float(f"{v:.4g}") for v in row] for row in labels.tolist()]}
        with self.path.open("a") as stream:
            stream.write(json.dumps(line | {"truth": self._truth()}) + "\n")

    def _truth(self) -> list[Any] | None:
        known = self.pool.targets
        if known is None or not isinstance(self.task.output, Classes):
            return None
        return [int(target) if target >= 0 else None for target in known]

"""A run directory's records: metrics.jsonl, TensorBoard events, result.json, recipe.resolved.yaml."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from .files import write_text


class RunLog:
    """Appends metrics to a run directory; on resume, drops lines past the checkpoint so none appears twice.

    Attributes:
        last: the newest line.
    """

    def __init__(self, folder: Path, resume_step: int) -> None:
        self.folder = folder
        self.path = folder / "metrics.jsonl"
        folder.mkdir(parents=True, exist_ok=True)
        kept = []
        if self.path.exists() and resume_step:
            kept = [line for line in self.path.read_text().splitlines() if step_of(line) <= resume_step]
        write_text(self.path, "".join(line + "\n" for line in kept))
        self.last: dict[str, float] = {}
        self._stream = self.path.open("a", buffering=1)
        from torch.utils.tensorboard.writer import SummaryWriter

        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=resume_step + 1 if resume_step else None)

    def write(self, step: int, values: dict[str, float]) -> None:
        """Records ``values`` after ``step`` optimisation steps."""
        self.last = {"step": step, **values}
        self._stream.write(json.dumps(self.last) + "\n")
        for name, value in values.items():
            self._board.add_scalar(name, value, step)

    def close(self) -> None:
        self._stream.close()
        self._board.close()


def step_of(line: str) -> float:
    """A line's step; a line cut short by a kill counts as past every checkpoint."""
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return float("inf")


def write_json(path: Path, value: Any) -> None:
    """Writes atomically: readers see the old file or the new one."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def write_recipe(folder: Path, resolved: dict[str, Any]) -> None:
    write_text(folder / "recipe.resolved.yaml", yaml.safe_dump(resolved, sort_keys=False, allow_unicode=True))

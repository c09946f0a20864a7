"""A run directory's records: metrics.jsonl, TensorBoard events, result.json, recipe.resolved.yaml."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import yaml


class RunLog:
    """Appends metrics to a run directory; on resume, drops lines past the checkpoint so none appears twice."""

    def __init__(self, folder: Path, resume_step: int) -> None:
        self.folder = folder
        self.path = folder / "metrics.jsonl"
        folder.mkdir(parents=True, exist_ok=True)
        kept = []
        if self.path.exists() and resume_step:
            kept = [line for line in self.path.read_text().splitlines() if _step(line) <= resume_step]
        self.path.write_text("".join(line + "\n" for line in kept))
        self._stream = self.path.open("a", buffering=1)
        from torch.utils.tensorboard.writer import SummaryWriter

        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=resume_step + 1 if resume_step else None)

    def write(self, step: int, values: dict[str, float]) -> None:
        """Records ``values`` after ``step`` optimisation steps."""
        self._stream.write(json.dumps({"step": step, **values}) + "\n")
        for name, value in values.items():
            self._board.add_scalar(name, value, step)

    def close(self) -> None:
        self._stream.close()
        self._board.close()


def _step(line: str) -> float:
    """A line's step; a line cut short by a kill counts as past every checkpoint."""
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return float("inf")


def write_json(path: Path, value: Any) -> None:
    """Writes atomically: readers see the old file or the new one."""
    partial = path.with_suffix(f".{os.getpid()}.part")
    partial.write_text(json.dumps(value, indent=2) + "\n")
    partial.replace(path)


def write_recipe(folder: Path, resolved: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "recipe.resolved.yaml").write_text(yaml.safe_dump(resolved, sort_keys=False, allow_unicode=True))

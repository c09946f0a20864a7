"""What a finished run leaves for those who use its network: weights as safetensors, and what the task learnt from the data."""

from __future__ import annotations

import os
from pathlib import Path

from safetensors.torch import save_model
from torch import nn

from ..tasks.base import Task

WEIGHTS = "model.safetensors"


def export(folder: Path, module: nn.Module, task: Task) -> Path:
    """Writes ``model.safetensors``, the weights that were evaluated, and the task's own files beside it; returns its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / WEIGHTS
    partial = path.with_suffix(f".{os.getpid()}.part")
    save_model(module, str(partial))
    partial.replace(path)
    task.save(folder)
    return path

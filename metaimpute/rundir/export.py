"""What a finished run leaves for those who use its network: weights as safetensors, and what the task learnt from the data."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from pathlib import Path

from safetensors.torch import save_model
from torch import nn

from ..tasks.base import Task
from .files import replacing
from .layout import WEIGHTS


def export(folder: Path, module: nn.Module, task: Task) -> Path:
    """Writes ``model.safetensors``, the weights that were evaluated, and the task's own files beside it; returns its path."""
    path = folder / WEIGHTS
    with tempfile.TemporaryDirectory() as scratch:
        task.save(Path(scratch))
        for file in sorted(path for path in Path(scratch).rglob("*") if path.is_file()):
            with replacing(folder / file.relative_to(scratch)) as partial:
                shutil.copyfile(file, partial)
    with replacing(path) as partial:  # last: a folder with weights has all that they need
        save_model(module, str(partial))
    return path


def digest(folder: Path) -> str:
    """SHA-256 of the weights' file: safetensors has no checksum of its own, and one altered byte predicts otherwise."""
    found = hashlib.sha256()
    with (folder / WEIGHTS).open("rb") as stream:
        while part := stream.read(2**20):
            found.update(part)
    return found.hexdigest()

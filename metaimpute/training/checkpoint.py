"""Checkpoints: written atomically, the last two kept, read without executing code."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

import torch

KEPT = 2


class NoCheckpoint(RuntimeError):
    """A run directory without a readable checkpoint."""


def checkpoint_path(folder: Path, step: int) -> Path:
    return folder / "checkpoints" / f"step-{step:08d}.pt"


def existing(folder: Path) -> list[Path]:
    """Checkpoints of a run directory, oldest first."""
    return sorted((folder / "checkpoints").glob("step-*.pt"))


def save(folder: Path, step: int, state: dict[str, Any]) -> Path:
    """Writes a checkpoint to a temporary file, renames it into place, and drops all but the last two."""
    path = checkpoint_path(folder, step)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".part")
    with partial.open("wb") as stream:
        torch.save(state, stream)
        stream.flush()
        os.fsync(stream.fileno())
    partial.replace(path)
    for old in existing(folder)[:-KEPT]:
        with contextlib.suppress(FileNotFoundError):
            old.unlink()
    return path


def latest(folder: Path) -> tuple[dict[str, Any], Path, list[str]]:
    """The newest readable checkpoint, its path, and a message for each newer one that could not be read.

    Raises:
        NoCheckpoint: when there is none.
    """
    skipped: list[str] = []
    for path in reversed(existing(folder)):
        try:
            return torch.load(path, map_location="cpu", weights_only=True), path, skipped
        except Exception as error:  # a truncated or damaged file shows as many kinds of error
            skipped.append(f"skipped unreadable checkpoint {path.name}: {type(error).__name__}")
    raise NoCheckpoint(f"no readable checkpoint in {folder / 'checkpoints'}" + "".join(f"; {s}" for s in skipped))

"""Checkpoints: written atomically, the last two kept, read without executing code."""

from __future__ import annotations

import contextlib
import zipfile
from pathlib import Path
from typing import Any

import torch

from .files import replacing

KEPT = 2


class NoCheckpoint(RuntimeError):
    """A run directory without a readable checkpoint."""


def checkpoint_path(folder: Path, step: int) -> Path:
    return folder / "checkpoints" / f"step-{step:08d}.pt"


def existing(folder: Path) -> list[Path]:
    """Checkpoints of a run directory, oldest first."""
    return sorted((folder / "checkpoints").glob("step-*.pt"))


def save(folder: Path, step: int, state: dict[str, Any]) -> Path:
    """Writes a checkpoint to a temporary file, renames it into place, and drops all but the last two.

    Raises:
        OSError: when it cannot be written; the earlier ones are as they were.
    """
    path = checkpoint_path(folder, step)
    with replacing(path) as partial, partial.open("wb") as stream:
        torch.save(state, stream)
    for old in existing(folder)[:-KEPT]:
        with contextlib.suppress(FileNotFoundError):
            old.unlink()
    return path


def _read(path: Path) -> dict[str, Any]:
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()  # torch.load looks at no checksum
    if damaged is not None:
        raise ValueError(f"{damaged} is not what was written")
    return torch.load(path, map_location="cpu", weights_only=True)


def latest(folder: Path) -> tuple[dict[str, Any], Path, list[str]]:
    """The newest readable checkpoint, its path, and a message for each newer one that could not be read.

    Raises:
        NoCheckpoint: when there is none.
    """
    skipped: list[str] = []
    for path in reversed(existing(folder)):
        try:
            return _read(path), path, skipped
        except Exception as error:  # a truncated or damaged file shows as many kinds of error
            skipped.append(f"skipped unreadable checkpoint {path.name}: {type(error).__name__}")
    raise NoCheckpoint(f"no readable checkpoint in {folder / 'checkpoints'}" + "".join(f"; {s}" for s in skipped))

"""Checkpoints: written atomically, the last two kept, read without executing code."""

from __future__ import annotations

import contextlib
import math
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import UserError
from .files import refuse_link, replacing
from .layout import CHECKPOINTS, METRICS, RESULT, STEP, checkpoint_path
from .stored import read_metrics

KEPT = 2


class NoCheckpoint(UserError, RuntimeError):
    """A run directory without a readable checkpoint. Ends a command with exit code 2."""


def existing(folder: Path) -> list[Path]:
    """Checkpoints of a run directory, oldest first; none where there is no folder of them yet.

    Raises:
        NoCheckpoint: when the folder cannot be listed, so that nobody takes it for empty.
    """
    place = folder / CHECKPOINTS
    try:
        steps = {int(found[1]): path for path in place.iterdir() if (found := STEP.fullmatch(path.name))}
    except FileNotFoundError:
        return []
    except OSError as error:
        raise NoCheckpoint(f"{place} cannot be listed: {error.strerror}") from None
    return [path for _, path in sorted(steps.items())]


def save(folder: Path, step: int, state: dict[str, Any]) -> Path:
    """Writes a checkpoint to a temporary file, renames it into place, and drops all but the last two.

    Raises:
        OSError: when it cannot be written; the earlier ones are as they were. NotOurs: when the folder of them is a link.
    """
    path = checkpoint_path(folder, step)
    refuse_link(path.parent)
    with replacing(path) as partial, partial.open("wb") as stream:
        torch.save(state, stream)
    for old in existing(folder)[:-KEPT]:
        with contextlib.suppress(FileNotFoundError):
            old.unlink()
    return path


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ValueError("no regular file")
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()  # torch.load looks at no checksum
    if damaged is not None:
        raise ValueError(f"{damaged} is not what was written")
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    _check(state)
    return state


MAPPINGS = ("model", "optimizer", "method", "data")
LISTS = ("schedulers", "evaluations")
COUNTS = ("step", "seed", "threads")


def _check(state: Any) -> None:
    """Raises:
    ValueError: when this is not the state of a run; what fits the run's own network is seen when it is put back."""
    if not isinstance(state, dict):
        raise ValueError("not the state of a run")
    kinds: list[tuple[tuple[str, ...], type]] = [(MAPPINGS, dict), (LISTS, list), (COUNTS, int)]
    for names, kind in kinds:
        for name in names:
            if not isinstance(state.get(name), kind):
                raise ValueError(f"not the state of a run: no {name}")
    seconds = state.get("seconds")
    if not isinstance(seconds, int | float) or not math.isfinite(seconds) or state["step"] < 0:
        raise ValueError("not the state of a run: its step or its time is none")
    for values in state["evaluations"]:
        if not isinstance(values, dict) or not all(isinstance(value, int | float) for value in values.values()):
            raise ValueError("not the state of a run: its evaluations are none")


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
            first = (str(error).splitlines() or [""])[0][:80]
            skipped.append(f"skipped unreadable checkpoint {path.name}: {type(error).__name__}: {first}")
    raise NoCheckpoint(f"no readable checkpoint in {folder / CHECKPOINTS}" + "".join(f"; {s}" for s in skipped))


def require_alike(here: Any, saved: Any, place: str) -> None:
    """Raises:
    ValueError: when a tree of tensors has other keys or shapes than the one it is to replace."""
    if isinstance(here, dict):
        if not isinstance(saved, dict) or saved.keys() != here.keys():
            raise ValueError(f"{place}: other keys")
        for key, value in here.items():
            require_alike(value, saved[key], f"{place}.{key}")
    elif isinstance(here, Tensor) and (not isinstance(saved, Tensor) or saved.shape != here.shape):
        raise ValueError(f"{place}: another shape")


def require_unbegun(folder: Path) -> None:
    """Refuses to begin where records show that checkpoints have been there: that would empty the records too.

    Raises:
        NoCheckpoint: naming how far the run had come.
    """
    try:
        last = read_metrics(folder / METRICS)[-1:]
    except FileNotFoundError:
        last = []
    except ValueError:
        last = [{"step": 1.0}]  # not readable, so not empty either
    if last or (folder / RESULT).exists():
        upto = f"{folder / METRICS} goes up to step {last[0]['step']:.0f}" if last else f"{RESULT} is there"
        raise NoCheckpoint(
            f"{folder / CHECKPOINTS} holds no checkpoint, although {upto}; put them back, or begin anew in another "
            f"folder with --out"
        )

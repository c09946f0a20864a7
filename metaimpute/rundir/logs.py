"""A run directory's records: metrics.jsonl, TensorBoard events, result.json, recipe.resolved.yaml."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import yaml

from .board import tag_of
from .files import replacing, write_text
from .layout import METRICS, RECIPE, TENSORBOARD
from .stored import lines_up_to, read_bytes


class RunLog:
    """Appends metrics to a run directory; on resume, drops lines past the checkpoint so none appears twice.

    Args:
        say: is told of lines that are damaged.

    Attributes:
        last: the newest line.

    Raises:
        DamagedFile: when something other than a file is in the way.
    """

    def __init__(self, folder: Path, resume_step: int, say: Callable[[str], None]) -> None:
        self.folder = folder
        self.path = folder / METRICS
        folder.mkdir(parents=True, exist_ok=True)
        cut_back(self.path, resume_step, say)
        self.last: dict[str, float] = {}
        self._stream = self.path.open("a", buffering=1)
        from torch.utils.tensorboard.writer import SummaryWriter

        self._board = SummaryWriter(str(folder / TENSORBOARD), purge_step=resume_step + 1 if resume_step else None)

    def write(self, step: int, values: dict[str, float]) -> None:
        """Records ``values`` after ``step`` optimisation steps."""
        self.last = {"step": step, **values}
        self._stream.write(json.dumps(self.last) + "\n")
        for name, value in values.items():
            self._board.add_scalar(tag_of(name), value, step)

    def close(self) -> None:
        self._stream.close()
        self._board.close()


class NoLog:
    """The log of a process that writes nothing.

    Attributes:
        last: no line.
    """

    last: ClassVar[dict[str, float]] = {}

    def write(self, step: int, values: dict[str, float]) -> None:
        """Forgets them."""

    def close(self) -> None:
        """There is nothing to close."""


def cut_back(path: Path, resume_step: int, say: Callable[[str], None]) -> None:
    """Leaves the lines of a file of records that were written up to a step; at step 0 none.

    Where some are damaged, the run can do without them: the file as it was is kept beside it, and that is said.

    Raises:
        DamagedFile: when something other than a file is in the way.
    """
    try:
        kept, bad = lines_up_to(path, resume_step) if resume_step else ([], 0)
    except FileNotFoundError:
        kept, bad = [], 0
    if bad:
        aside = path.with_name(f"{path.name}.damaged")
        with replacing(aside) as partial:
            partial.write_bytes(read_bytes(path))
        say(f"warning: left out {bad:,} damaged line{'s' if bad > 1 else ''} of {path}; the file as it was: {aside}")
    write_text(path, "".join(line + "\n" for line in kept))


def write_recipe(folder: Path, resolved: dict[str, Any]) -> None:
    write_text(folder / RECIPE, yaml.safe_dump(resolved, sort_keys=False, allow_unicode=True))

"""Run directories read back: what was asked, what was measured, and the trained network."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..recipes import load
from ..training.session import Session
from ..yaml_source import RecipeError


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        result: content of ``result.json``. metrics: lines of ``metrics.jsonl``, in order.
    """

    folder: Path
    result: dict[str, Any]
    metrics: list[dict[str, float]]

    @property
    def learns_labels(self) -> bool:
        return self.result["problem"] != "none"

    def series(self, *names: str) -> tuple[list[float], list[list[float]]]:
        """Steps at which all of these were measured, and their values."""
        lines = [line for line in self.metrics if all(name in line for name in names)]
        return [line["step"] for line in lines], [[line[name] for line in lines] for name in names]

    def restored(self) -> Session:
        """The run's data, task and trained network.

        Raises:
            MissingData: when the data is not here. NoCheckpoint: when the weights are gone.
        """
        recipe = load(self.folder / "recipe.resolved.yaml", self.result["profile"])
        session = Session(recipe, self.folder, say=lambda message: None)
        session.resume()
        session.module.eval()
        torch.set_grad_enabled(True)
        return session


def read_run(folder: Path) -> Run:
    """Raises:
    RecipeError: when the folder holds no finished run, saying what is missing."""
    if not (folder / "recipe.resolved.yaml").exists():
        raise RecipeError(f"{folder} is not a run directory (no recipe.resolved.yaml)")
    try:
        result = json.loads((folder / "result.json").read_text())
    except FileNotFoundError:
        raise RecipeError(f"{folder} is not finished (no result.json); continue it with --resume {folder}") from None
    except ValueError:
        raise RecipeError(f"{folder / 'result.json'} is damaged") from None
    lines = []
    for number, line in enumerate((folder / "metrics.jsonl").read_text().splitlines(), 1):
        try:
            lines.append(json.loads(line))
        except ValueError:
            raise RecipeError(f"{folder / 'metrics.jsonl'}:{number}: not a line of metrics") from None
    return Run(folder, result, lines)

"""What everything in a run folder is called, once, and what tells a run folder from any other."""

from __future__ import annotations

import re
from pathlib import Path

from ..tasks.base import LEARNT
from ..tasks.own_table import PREPROCESSING

RECIPE = "recipe.resolved.yaml"  # a folder with it is a run
ORIGIN = "begun.json"
CHECKPOINTS = "checkpoints"
METRICS = "metrics.jsonl"
TENSORBOARD = "tensorboard"
LABELS = "labels.jsonl"  # of a few examples over training
DIVERGED = "diverged.json"
FAILED = "failed.json"  # of a study's run
WEIGHTS = "model.safetensors"
SYSTEMS, MEMBERS = "systems.json", "systems.skops"  # of a run with choose
TESTED = "tested.json"  # single rows of the test set, for a report
ROW_WEIGHTS = "row_weights.csv"  # of the labelled rows, where an objective learns them
RESULT = "result.json"  # written last: a run with it is finished
PREDICTED = "labels.csv"
LOCK = "run.lock"
REPORT = "report.html"
REVIEW = "review.html"

STEP = re.compile(r"step-(\d+)\.pt")
WRITTEN_OVER = (METRICS, RESULT, LEARNT, ORIGIN, WEIGHTS, PREPROCESSING, CHECKPOINTS, DIVERGED, LABELS, PREDICTED, LOCK, SYSTEMS,
                MEMBERS, TESTED, ROW_WEIGHTS)  # fmt: skip
_REPLACED = (
    ORIGIN,
    RESULT,
    DIVERGED,
    LEARNT,
    METRICS,
    LABELS,
    RECIPE,
    WEIGHTS,
    PREPROCESSING,
    SYSTEMS,
    MEMBERS,
    TESTED,
    ROW_WEIGHTS,
)
_ASIDE = tuple(f"{name}.damaged" for name in (METRICS, LABELS))


def is_run(folder: Path) -> bool:
    """Whether a run was begun in the folder."""
    return (folder / RECIPE).is_file()


def is_replaced(name: str) -> bool:
    """Whether a run writes a file of this name beside its place first, so that a kill may leave a part of it."""
    return name in (*_REPLACED, *_ASIDE) or STEP.fullmatch(name) is not None


def checkpoint_path(folder: Path, step: int) -> Path:
    return folder / CHECKPOINTS / f"step-{step:08d}.pt"

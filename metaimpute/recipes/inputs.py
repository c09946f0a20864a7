"""Whether a recipe's batches can be prepared where ``train.workers`` and ``train.views`` ask for it."""

from __future__ import annotations

import sys

import torch

from ..models.base import Model
from ..tasks.base import Task
from .schema import TrainSpec
from .source import Source


def check_input(source: Source, task: Task, model: Model, train: TrainSpec) -> None:
    """Raises:
    RecipeError: for workers or views on the device where batches cannot be made so."""
    if train.workers:
        reason = model.reason_against_workers(torch.device("cpu"))
        if not sys.platform.startswith("linux"):
            reason = "workers are forks of the run's process, which are safe on Linux alone; leave it out"
        if reason:
            raise source.fail(("train", "workers"), reason)
    if train.views == "device":
        reason = ""
        if not task.views_on_device:
            reason = f"task '{task.name}' makes its views on the host alone; leave it out"
        elif model.prepares_inputs:
            reason = f"model '{model.name}' prepares views itself, wherever they are made; leave it out"
        if reason:
            raise source.fail(("train", "views"), reason)

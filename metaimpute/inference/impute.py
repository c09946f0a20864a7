"""Labels for the unlabelled examples a run was trained on."""

from __future__ import annotations

from pathlib import Path

import torch

from ..rundir.origin import recipe_of
from ..tasks.base import TaskError
from .predictions import Predictions
from .predictor import Predictor, load


def impute(run: str | Path, device: str = "auto") -> tuple[Predictions, Predictor]:
    """Labels, by the finished network, for every example of the run's own data that training had none of.

    Raises:
        NotExported: when the run is not finished. MissingData: when its data is no longer here. TaskError: when the data has
            changed since, so that what the network learnt no longer fits it.
    """
    predictor = load(run, device)
    fresh = recipe_of(Path(run)).task
    fresh.prepare_inputs = predictor.task.prepare_inputs
    data = fresh.load(predictor.recipe.train.seed)
    if fresh.learnt() != predictor.task.learnt():
        raise TaskError(f"the data has changed since {run} was trained on it; use predict on the file instead")
    known = torch.isin(
        data.unlabelled.ids, data.labelled.ids
    )  # labelled examples that training also drew as unlabelled
    without = data.unlabelled.subset((~known).nonzero()[:, 0])
    if not len(without):
        raise TaskError(f"{run} was trained without unlabelled examples")
    return predictor.label(without, fresh.row_names(without)), predictor

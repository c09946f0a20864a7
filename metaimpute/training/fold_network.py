"""The recipe's network among other systems: trained anew on the labelled examples of each fold."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..batches.outputs import Classes, Output
from ..ensemble.measuring import Unfit
from ..ensemble.members import Rows
from ..progress import counted
from ..recipes.recipe import Recipe, validate
from ..tasks.base import Pool, TaskData
from .assemble import assemble, take_step
from .evaluation import predictions
from .finite import Diverged

EXAMPLES = "examples"  # the form of rows that are numbers of labelled examples


class FoldNetwork:
    """A member of an ensemble whose rows are numbers of labelled examples.

    Args:
        trained: the run's network, which stands for the one that is fitted to all of them. between: called after each step.
    """

    def __init__(
        self, recipe: Recipe, data: TaskData, trained: nn.Module, device: torch.device, between: Callable[[], None]
    ) -> None:
        self.recipe, self.data, self.trained, self.device, self.between = recipe, data, trained, device, between
        self.module: nn.Module | None = None

    def fit(self, rows: Rows) -> None:
        index = torch.from_numpy(rows.labelled[:, 0])
        if len(index) == len(self.data.labelled):
            self.module = self.trained
            return
        # the same task, whose files are read, with a model, method and problem of its own
        recipe = validate(self.recipe.source, self.recipe.path, self.recipe.profile, self.recipe.task)
        data = dataclasses.replace(self.data, labelled=self.data.labelled.subset(index), warnings=())
        threads = torch.get_num_threads()
        try:
            parts = assemble(recipe, lambda message: None, data)
            with contextlib.closing(parts.ahead):
                for step in counted(range(recipe.train.steps), "training on a fold", recipe.train.steps):
                    take_step(parts, recipe, step)
                    self.between()
                parts.algorithm.settle()
        except Diverged as error:
            raise Unfit(f"training diverged on a part of the labels ({error})") from None
        finally:
            torch.set_num_threads(threads)
        self.module = parts.module if parts.averaged is None else parts.averaged.module

    def predict(self, rows: Any) -> np.ndarray:
        """Probabilities ``[n, classes]``, or standardised values ``[n]``."""
        assert self.module is not None
        pool: Pool = self.data.labelled.subset(torch.from_numpy(rows[:, 0]))
        task = self.recipe.task
        return as_answer(predictions(self.module, task, pool, self.recipe.train.eval_batch, self.device), task.output)


def as_answer(raw: Tensor, output: Output) -> np.ndarray:
    """A network's outputs as probabilities ``[n, classes]``, or as the first of its standardised values ``[n]``."""
    found = raw.double().softmax(-1) if isinstance(output, Classes) else raw.double()[:, 0]
    return np.asarray(found.numpy())

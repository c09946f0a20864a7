"""A finished run as a predictor: network, preprocessing and label names, without the training data."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_model
from torch import Tensor, nn

from ..batches import ViewKind
from ..batches.outputs import Classes, Standardized
from ..engine import derive_seed, fixed_rng
from ..engine.ambient import as_usual
from ..ensemble.conformal import LEVEL
from ..environment import pick_device
from ..errors import UserError
from ..progress import phase
from ..recipes.recipe import Recipe
from ..recipes.source import RecipeError, one_line
from ..rundir.export import digest
from ..rundir.layout import SYSTEMS, WEIGHTS
from ..rundir.origin import recipe_of
from ..rundir.result import Result
from ..rundir.stored import DamagedFile
from ..rundir.systems import Systems
from ..showing import watched
from ..streams import Stream
from ..tasks.base import LEARNT, MissingData, Pool, Task, TaskError
from ..terminal import argument
from ..training.choosing import combined_raw
from ..training.evaluation import class_names, predictions
from ..training.fold_network import as_answer
from .predictions import Predictions, in_units

VIEWS = 8


class NotExported(UserError, RuntimeError):
    """A run directory without a finished network. Ends a command with exit code 2."""


@dataclass
class Predictor:
    """What :func:`load` returns.

    Attributes:
        recipe: the run's recipe. task: its preprocessing, restored. module: the network, in evaluation mode.
        label_names: of the classes, or of the values, in the order of the network's outputs.
        systems: combined with the network, where the run has any.
    """

    recipe: Recipe
    task: Task
    module: nn.Module
    device: torch.device
    label_names: list[str]
    systems: Systems | None = None

    def raw(self, examples: Any, kind: ViewKind = "none", seed: int = 0) -> Tensor:
        """Outputs ``[n, outputs]`` for raw examples: logits or log-probabilities, or standardised values.

        They are the network's, or of all systems combined where a run has several.
        """
        if self.systems is not None:
            return combined_raw(self.systems, self._network, self._pool(examples), self.task.output)
        return self._network(examples, kind, seed)

    def _network(self, examples: Any, kind: ViewKind = "none", seed: int = 0) -> Tensor:
        batch = self.recipe.train.eval_batch
        return predictions(self.module, self.task, examples, batch, self.device, kind, seed, doing="labelling")

    @as_usual()
    def predict_proba(self, examples: Any) -> Tensor:
        """Probabilities ``[n, classes]`` for raw examples.

        Raises:
            TypeError: for a network that predicts values.
        """
        if not isinstance(self.task.output, Classes):
            raise TypeError("this network predicts values; use predict")
        return self.task.output.activate(self.raw(examples))

    @as_usual()
    def label(self, examples: Any, ids: Sequence[str] | None = None) -> Predictions:
        """Labels or values for raw examples, or for a pool of them.

        Args:
            examples: as the task's ``read`` gives them: a list of images uint8 ``[3, h, w]``, a list of texts, rows of a table.
            ids: names of the rows; their numbers, or a pool's own names, where there are none.
        """
        if ids is None and isinstance(examples, Pool):
            ids = self.task.row_names(examples)
        names = [str(number) for number in range(len(examples))] if ids is None else list(ids)
        if isinstance(self.task.output, Classes):
            exact = self.task.output.activate(self.raw(examples).double())  # in float32, 0.99999999 is 1
            return Predictions(names, self.label_names, probabilities=exact)
        if self.systems is not None:
            found, widths = self.systems.answer(self._pool(examples), lambda: self._answer(examples))
            unit = float(self.task.output.std[0])  # type: ignore[attr-defined]  # one value
            spread = np.full(len(found), math.nan) if widths is None else unit * widths
            values = in_units(self.task.output, torch.from_numpy(found)[:, None])
            return Predictions(names, self.label_names, values=values, spread=torch.from_numpy(spread)[:, None])
        values = in_units(self.task.output, self.raw(examples))
        views = torch.stack([in_units(self.task.output, self.raw(examples, "weak", seed)) for seed in range(VIEWS)])
        return Predictions(names, self.label_names, values=values, spread=views.std(0))

    def with_sets(self, found: Predictions, level: float = LEVEL) -> Predictions:
        """The same with sets of classes, each of which holds the true one with a probability of ``level``.

        Raises:
            TaskError: for values, and for a run without ``choose``, which holds no labelled row out.
        """
        if found.probabilities is None:
            raise TaskError("sets are of classes; a value has its interval, value_spread to both sides")
        if self.systems is None:
            raise TaskError("sets need labelled rows that were held out; run with choose: {systems: auto}")
        sets = self.systems.class_sets(found.probabilities.double().numpy(), level)
        return dataclasses.replace(found, sets=torch.from_numpy(sets))

    def _pool(self, examples: Any) -> Pool:
        return (
            examples if isinstance(examples, Pool) else Pool(examples, None, torch.arange(len(examples), device="cpu"))
        )

    def _answer(self, examples: Any) -> np.ndarray:
        return as_answer(self._network(self._pool(examples)), self.task.output)

    def predict(self, path: str | Path, verbose: int = 0) -> Predictions:
        """Labels or values for a file or folder of new inputs.

        Args:
            verbose: 1 shows on the standard error how far the work has come, and what looks wrong with the inputs.

        Raises:
            TaskError: when it cannot be read as inputs of this task.
        """
        with watched(verbose) as shown:
            with phase("reading"):
                ids, examples = self.task.read(Path(path))
            if shown is not None:
                for line in self.task.read_warnings:
                    shown.say(f"warning: {line}", "yellow")
            return self.label(examples, ids)


def _restore(task: Task, folder: Path) -> None:
    """Puts back what a task has learnt.

    Raises:
        TaskError: when that is not there, or is not what a task of this kind learns.
    """
    for path in folder.iterdir():
        if path.exists() and not path.is_file() and not path.is_dir():  # to open a pipe is to wait for ever
            raise TaskError(f"{path} is no regular file")
    try:
        task.restore(folder)
        task.learnt()
        names, size = task.label_names, task.output.size
        known = names is None or (isinstance(names, list) and all(isinstance(name, str) for name in names))
        if not known or (names is not None and len(names) != size) or min(task.input_shape, default=1) < 1:
            raise ValueError("names that fit no network")
        if isinstance(task.output, Standardized):
            numbers = (*task.output.mean, *task.output.std)
            if not all(math.isfinite(number) for number in numbers) or len(numbers) not in (0, 2 * size):
                raise ValueError("a scale that is none")
    except TaskError:
        raise
    except Exception as error:  # what lies there may be of any shape, and each task reads it in its own way
        reason = f"{type(error).__name__}: {error}"
        raise TaskError(f"{folder / LEARNT} or what lies beside it cannot be read ({one_line(reason, 160)})") from None


def _require_whole(folder: Path) -> None:
    """Raises:
    NotExported: when the weights are not those that the run's result was measured with, as far as that is told."""
    try:
        known = Result.read(folder).weights_sha256
    except (OSError, DamagedFile):
        return  # a prediction needs no result
    if known is not None and known != digest(folder):
        raise NotExported(
            f"{folder / WEIGHTS} has changed since the run wrote it; --resume {argument(folder)} writes it again"
        )


@as_usual()
def load(run: str | Path, device: str = "auto") -> Predictor:
    """The network of a finished run, ready to predict: ``metaimpute.load("runs/own_images-seed0").predict("new/")``.

    Nothing is unpickled: weights are safetensors, settings YAML and JSON, a table's preprocessing a checked skops file.

    Raises:
        NotExported: when the run is not finished. MissingData: when the network stands on weights that
            are not here. RecipeError, TaskError: when the folder is
            no run, or a file of it is damaged.
    """
    folder = Path(run)
    try:
        recipe = recipe_of(folder, without_data=True)  # a prediction reads nothing of what training did
    except RecipeError:  # of a task or a method that has to see its data
        recipe = recipe_of(folder)
    if not (folder / WEIGHTS).is_file():
        raise NotExported(
            f"{folder} holds no trained network ({WEIGHTS}); finish the run with --resume {argument(folder)}"
        )
    missing = recipe.model.missing()
    if missing:
        raise MissingData(missing)
    task, where = recipe.task, pick_device(device)
    _restore(task, folder)
    with fixed_rng(derive_seed(recipe.train.seed, Stream.INIT)):  # a frozen part with random weights is drawn as it was
        module = recipe.model.build(task.input_shape, task.output.size)
        task.prepare_inputs = recipe.model.preprocess(where)
    try:
        load_model(module, str(folder / WEIGHTS))
    except (SafetensorError, RuntimeError, OSError) as error:
        raise NotExported(f"{folder / WEIGHTS} cannot be read ({str(error).splitlines()[0]})") from None
    _require_whole(folder)
    if not all(bool(torch.isfinite(value).all()) for value in module.state_dict().values()):
        raise NotExported(f"{folder / WEIGHTS} holds weights that are not finite")
    names = class_names(task.label_names, task.output.size)
    systems = Systems.restore(folder, task, recipe.model, where)
    if recipe.choose is not None and systems is None:
        raise NotExported(f"{folder / SYSTEMS} is missing; --resume {argument(folder)} writes it again")
    return Predictor(recipe, task, module.to(where).eval(), where, names, systems)

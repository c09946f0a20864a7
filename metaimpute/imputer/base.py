"""What the estimators for classes and for values share: rows standardised, systems trained, their predictions combined."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from ..batches.outputs import Classes, Output
from ..ensemble.choice import Candidate, Ensemble, Examples, Scored, candidates_on, choose, usable
from ..ensemble.members import Rows, members
from ..recipes.recipe import NETWORK, Recipe, validate
from ..recipes.source import Source, merge
from ..tasks.arrays import ArrayTask
from ..tasks.base import Task
from ..tasks.labels import as_labels
from ..training.algorithm import Diverged
from ..training.assemble import Parts, assemble, take_step
from ..training.evaluation import predictions

MISSING = -1
SPREAD = 1e-12  # of a column; one that varies less is left as it is
LARGE, FARTHEST = 1e100, 1e30  # beyond the one squares are infinite in float64, beyond the other in float32 soon
SECTIONS = ("model", "method", "problem", "train")  # that settings may have keys of; X and y are the task
ROWS = "rows"  # the one form of the examples


class Imputer(BaseEstimator):
    """What both estimators share. ``_inner``: L2I's look-ahead."""

    _inner: ClassVar[dict[str, Any]]

    def __init__(
        self,
        method: str = "fixmatch",
        problem: str = "none",
        *,
        systems: Any = "auto",
        combine: str = "mean",
        estimator: str = "mixed",
        width: int = 128,
        depth: int = 2,
        steps: int = 300,
        batch_size: int = 32,
        unlabelled_batch_size: int = 128,
        learning_rate: float = 1e-3,
        settings: dict[str, Any] | None = None,
        random_state: Any = None,
        device: str = "auto",
    ) -> None:
        self.systems = systems
        self.combine = combine
        self.method = method
        self.problem = problem
        self.estimator = estimator
        self.width = width
        self.depth = depth
        self.steps = steps
        self.batch_size = batch_size
        self.unlabelled_batch_size = unlabelled_batch_size
        self.learning_rate = learning_rate
        self.settings = settings
        self.random_state = random_state
        self.device = device

    def _recipe(self, task: Task, seed: int) -> Recipe:
        problem: dict[str, Any] = {"name": self.problem}
        if self.problem != "none":
            problem |= {"estimator": self.estimator, "holdout_view": "weak", "form": "released", "inner": self._inner}
        method: dict[str, Any] = {"name": self.method}
        if self.method == "mean_teacher":
            method |= {"weight": 1.0, "ramp": 0.4}
        data: dict[str, Any] = {
            "task": {"name": "arrays"},
            "model": {"name": "mlp", "width": self.width, "depth": self.depth},
            "method": method,
            "problem": problem,
            "train": {
                "steps": self.steps,
                "batch": self.batch_size,
                "unlabelled_batch": self.unlabelled_batch_size,
                "seed": seed,
                "optimizer": {"name": "adamw", "lr": self.learning_rate, "weight_decay": 0.01},
                "schedule": {"name": "cosine"},
                "ema": 0.99,
                "device": self.device,
            },
        }
        name = type(self).__name__
        source = Source(data, {}, name)
        for section in self.settings or {}:
            if section not in SECTIONS:
                raise source.unknown(("settings", str(section)), SECTIONS)
        return validate(merge(source, self.settings or {}, ("settings",)), name, "sample", task)

    def _fit(self, X: np.ndarray, targets: Tensor, known: np.ndarray, output: Output) -> np.ndarray:
        """Trains every system, and returns probabilities ``[n, classes]`` or standardised values ``[n]`` of every row."""
        largest = np.abs(X).max(0)
        self._unit = np.where(largest > LARGE, largest, 1.0)  # so that no square overflows
        self.mean_ = (X / self._unit).mean(0) * self._unit
        spread = (X / self._unit).std(0) * self._unit
        self.scale_ = np.where(spread > SPREAD * (1 + np.abs(self.mean_)), spread, 1.0)
        self.output_: Any = output
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        inputs = self._inputs(X).double().numpy()
        classes = output.size if isinstance(output, Classes) else 0
        labels = targets[torch.from_numpy(known)].numpy()
        examples = Examples(
            {ROWS: inputs[known]}, {ROWS: inputs[~known]}, labels if classes else labels[:, 0], classes, seed
        )
        names = self._names(classes, len(labels))
        chosen = candidates_on(ROWS, [name for name in names if name != NETWORK])
        if self.combine not in ("mean", "best"):
            raise ValueError(f"combine is 'mean' or 'best', not {self.combine!r}")
        if chosen:
            if NETWORK in names:
                chosen.append(Candidate(NETWORK, ROWS, lambda: _Network(self, output), prior=2.0, once=True))
            self.ensemble_: Ensemble | None = choose(examples, chosen, self.combine)  # type: ignore[arg-type]
            self.candidates_: tuple[Scored, ...] = self.ensemble_.scores
            self.expected_: Scored | None = self.ensemble_.expected
        else:
            self.ensemble_, self.candidates_, self.expected_ = None, (), None
            self.network_ = _Network(self, output)
            self.network_.fit(examples.whole(ROWS))
        return self._predicted(X)

    def _names(self, classes: int, labelled: int) -> list[str]:
        """Systems to train, in order.

        Raises:
            ValueError: for a system that there is not, or that is not for this kind of label.
        """
        fitting = [*usable(classes, labelled), NETWORK]
        if isinstance(self.systems, str) and self.systems == "auto":
            return fitting
        asked = [self.systems] if isinstance(self.systems, str) else list(self.systems)
        if not asked:
            raise ValueError("systems is empty; name one at least, or 'auto'")
        for name in asked:
            if name not in fitting:
                known = name in members
                reason = "does not fit these labels" if known else "is no system"
                raise ValueError(f"systems: {name!r} {reason}; there are {', '.join(fitting)}")
        return asked

    def _train(self, inputs: Tensor, targets: Tensor, known: Tensor, output: Output, seed: int) -> Any:
        """The network that method, problem and the like describe, trained on standardised rows."""
        task = ArrayTask(inputs=inputs, targets=targets, known=known, of=output)
        threads = torch.get_num_threads()
        recipe = self._recipe(task, seed)
        try:
            parts: Parts = assemble(recipe, lambda message: None)
            self.loss_curve_ = []
            for step in range(recipe.train.steps):
                self.loss_curve_.append(float(take_step(parts, recipe, step)["loss"]))
        except Diverged as error:
            raise FloatingPointError(f"training diverged: {error}; lower learning_rate") from None
        finally:
            torch.set_num_threads(threads)
        self.n_iter_ = recipe.train.steps
        module = parts.module if parts.averaged is None else parts.averaged.module
        self.module_: Any = module.eval().cpu().double()  # so that a row's answer does not depend on its neighbours
        return self.module_

    def _inputs(self, X: np.ndarray) -> Tensor:
        """Standardised rows.

        Raises:
            ValueError: naming a number so far from those of training that a network's arithmetic would overflow.
        """
        with np.errstate(over="ignore"):
            rows = (X / self._unit - self.mean_ / self._unit) / (self.scale_ / self._unit)
        far = np.argwhere(~(np.abs(rows) <= FARTHEST))
        if len(far):
            row, place = far[0]
            raise ValueError(
                f"X[{row}, {place}] is {X[row, place]:g}, more than {FARTHEST:g} standard deviations from the mean in training "
                f"({self.mean_[place]:g}): nothing can be predicted from it"
            )
        return torch.from_numpy(rows.astype(np.float32))

    def _predicted(self, X: np.ndarray) -> np.ndarray:
        """Probabilities ``[n, classes]`` or standardised values ``[n]``."""
        rows = self._inputs(X).double().numpy()
        return self.network_.predict(rows) if self.ensemble_ is None else self.ensemble_.predict({ROWS: rows})

    def _checked(self, X: Any) -> np.ndarray:
        check_is_fitted(self, "output_")
        checked: np.ndarray = validate_data(self, X, dtype=np.float64, reset=False)
        return checked


class _Network:
    """The network among the members of an ensemble."""

    def __init__(self, owner: Imputer, output: Output) -> None:
        self.owner: Imputer | None = owner
        self.output = output

    def fit(self, rows: Rows) -> None:
        assert self.owner is not None
        inputs = torch.from_numpy(np.concatenate([rows.labelled, rows.unlabelled])).float()
        known = torch.arange(len(inputs)) < len(rows.labelled)
        targets = torch.zeros(len(inputs), dtype=torch.long) if rows.classes else torch.zeros(len(inputs), 1)
        given = torch.from_numpy(np.asarray(rows.labels))
        targets[known] = given if rows.classes else given.float()[:, None]
        self.module, self.owner = self.owner._train(inputs, targets, known, self.output, rows.seed), None

    def predict(self, rows: np.ndarray) -> np.ndarray:
        task = ArrayTask(inputs=torch.from_numpy(rows), of=self.output)
        raw = predictions(self.module, task, task.inputs, 1024, torch.device("cpu")).double()
        return (raw.softmax(-1) if isinstance(self.output, Classes) else raw[:, 0]).numpy()


def rows_and_labels(estimator: Imputer, X: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
    from sklearn.utils import check_consistent_length

    if y is None:
        raise ValueError(f"{type(estimator).__name__} requires y to be passed, but the target y is None")
    try:
        X = validate_data(estimator, X, dtype=np.float64)
    except ValueError as error:
        if "could not convert string" not in str(error):
            raise
        raise ValueError(
            f"{error}; metaimpute.impute(data, labels) takes words, texts and images as they are"
        ) from None
    labels = as_labels(y)
    check_consistent_length(X, labels)
    return X, labels

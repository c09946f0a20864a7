"""What the estimators for classes and for values share: data of every kind, one recipe, one predictor."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from ..batches.outputs import Output
from ..ensemble.choice import Scored
from ..in_memory.answers import Answers, answers_for, by_row
from ..in_memory.arrays import train_on
from ..in_memory.data import Data, data_of, plain_numbers
from ..in_memory.given import Given
from ..in_memory.kept import kept, restored
from ..in_memory.progress import conclude
from ..in_memory.run import run_on
from ..inference import Predictor
from ..inference.predictions import in_units
from ..recipes.components import NETWORK
from ..recipes.recipe import COMPONENTS, resolve, validate
from ..recipes.source import Source, merge, read
from ..rundir.begin import Beginning
from ..rundir.origin import Begun
from ..tasks.arrays import ArrayTask
from ..tasks.base import Pool
from ..tasks.labels import as_labels
from .scale import Scale

if TYPE_CHECKING:
    from rich.table import Table

    from ..rundir.result import Estimated

MISSING = -1
SECTIONS = ("model", "method", "problem", "choose", "train")  # that settings may have keys of
FROM_PYTHON = "fitted from Python"


class Imputer(BaseEstimator):
    """What both estimators share. ``_inner``: L2I's look-ahead. ``_of_classes``: whether labels are classes."""

    _inner: ClassVar[dict[str, Any]]
    _of_classes: ClassVar[bool]
    predictor_: Predictor

    def __init__(
        self,
        method: str | None = None,
        problem: str = "none",
        *,
        systems: Any = "auto",
        combine: str = "mean",
        estimator: str = "mixed",
        width: int | None = None,
        depth: int | None = None,
        steps: int | None = None,
        batch_size: int | None = None,
        unlabelled_batch_size: int | None = None,
        learning_rate: float | None = None,
        settings: dict[str, Any] | None = None,
        random_state: Any = None,
        device: str = "auto",
        verbose: int = 0,
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
        self.verbose = verbose

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = tags.input_tags.string = True
        return tags

    def __getstate__(self) -> Any:
        """A predictor of data that is no plain numbers goes as the files of its run: parts of an encoder cannot be pickled."""
        state = super().__getstate__()
        if "_files" not in state:
            return state
        return {key: value for key, value in state.items() if key not in ("predictor_", "module_")}

    def __setstate__(self, state: Any) -> None:
        super().__setstate__(state)
        if "_files" in state:
            self.predictor_ = restored(self._files, self.device)
            if "n_iter_" in state:
                self.module_ = self.predictor_.module

    def __rich__(self) -> Table | str:
        if not getattr(self, "candidates_", ()):
            return repr(self)
        from ..reporting.console import systems_table

        return systems_table([self._shown(one) for one in self.candidates_], "%" if self._of_classes else "")

    # fitting ---------------------------------------------------------------------------------------------------------

    def _rows_and_labels(self, X: Any, y: Any) -> tuple[np.ndarray | Data, np.ndarray]:
        """Rows of numbers as they are, or data of another kind; and a label for each."""
        from sklearn.utils import check_consistent_length

        if y is None:
            raise ValueError(f"{type(self).__name__} requires y to be passed, but the target y is None")
        rows: np.ndarray | Data
        if plain_numbers(X):
            rows = validate_data(self, X, dtype=np.float64)
        else:
            rows = data_of(X)
            if rows.kind == "table":
                validate_data(self, _framed(X, rows), skip_check_array=True)
                self._columns = list(rows.rows.columns)
        labels = as_labels(y)
        check_consistent_length(rows.rows if isinstance(rows, Data) else rows, labels)
        self.kind_ = rows.kind if isinstance(rows, Data) else "numbers"
        return rows, labels

    def _fit(self, rows: np.ndarray | Data, targets: Tensor, given: Given, output: Output) -> Answers:
        """Trains every system; what they predict of every row.

        Args:
            targets: class numbers ``[n]`` or standardised values ``[n, 1]``; any where there is none.
        """
        seed = self.random_state
        if isinstance(seed, bool) or not isinstance(seed, int | np.integer):
            seed = check_random_state(seed).randint(2**31 - 1)
        self._seed = int(seed)
        for name in ("_files", "loss_curve_", "n_iter_", "module_"):  # of an earlier fit
            self.__dict__.pop(name, None)
        if isinstance(rows, Data):
            self._fit_data(rows, given)
        else:
            self._scale = Scale.of(rows)
            task = ArrayTask(inputs=self._scale(rows), targets=targets, known=torch.from_numpy(given.known), of=output)
            trained = train_on(task, self._adapted, type(self).__name__, self.verbose)
            self.predictor_ = trained.predictor
            self.originals_: Mapping[str, Any] = {}
            self.warnings_: tuple[str, ...] = trained.warnings
            if trained.losses is not None:
                self.loss_curve_, self.n_iter_ = trained.losses, len(trained.losses)
                self.module_ = trained.predictor.module
        systems, unit = self.predictor_.systems, self._unit
        self.candidates_: tuple[Scored, ...] = ()
        self.expected_: Scored | None = None
        if systems is not None:
            self.candidates_ = tuple(one.times(unit) for one in systems.ensemble.scores)
            self.expected_ = systems.ensemble.expected.times(unit)
        found = self._answers(rows)
        if self.verbose:
            self._conclude(rows, int(given.known.sum()))
        return found

    def _fit_data(self, data: Data, given: Given) -> None:
        for name in ("width", "depth"):
            if data.kind != "table" and getattr(self, name) is not None:
                raise ValueError(f"{name} is of the network for tables; leave it out for {data.kind}")

        def begin(path: Path) -> Beginning:
            source = resolve(read(path), "sample")
            recipe = validate(self._adapted(Source(source.data, {}, type(self).__name__)), str(path), "sample")
            return Beginning(recipe, FROM_PYTHON, path.parent / "run", Begun(str(path), "sample", FROM_PYTHON))

        with tempfile.TemporaryDirectory(prefix="metaimpute-") as scratch:
            found = run_on(
                data, given, Path(scratch), begin, sets=self._task_options(data), argument="settings", device=self.device,
                verbose=self.verbose,
            )  # fmt: skip
            self._files = kept(found.folder)
        self.predictor_, self.originals_, self.warnings_ = found.predictor, found.originals, found.warnings
        if found.result.steps:
            self.n_iter_, self.module_ = found.result.steps, found.predictor.module

    def _task_options(self, data: Data) -> list[str]:
        """What the data is taken for, as assignments."""
        from ..recipes.source import flow

        options = (self.settings or {}).get("task") or {}
        if data.kind != "images":  # what means none has been asked
            options = {"missing_values": []} | options
        options = options | self._kind_options(data)
        return [f"task.{key}={flow(value)}" for key, value in options.items()]

    def _kind_options(self, data: Data) -> dict[str, Any]:
        """What labels are taken for, as options of the task."""
        raise TypeError(f"{type(self).__name__} does not define _kind_options()")

    def _adapted(self, source: Source) -> Source:
        """The recipe that there is for such data, with what was asked for.

        Raises:
            RecipeError: for settings of no section.
        """
        train = {
            "steps": self.steps, "batch": self.batch_size, "unlabelled_batch": self.unlabelled_batch_size, "seed": self._seed,
            "device": self.device,
        }  # fmt: skip
        changes: dict[str, Any] = {
            "train": {key: value for key, value in train.items() if value is not None},
            "choose": {"systems": self._systems(), "combine": self.combine},
            "model": {key: value for key in ("width", "depth") if (value := getattr(self, key)) is not None},
        }
        if changes["choose"]["systems"] == [NETWORK]:
            changes["choose"] = None
        if self.learning_rate is not None:
            changes["train"]["optimizer"] = {"lr": self.learning_rate}
        if self.method is not None:
            ramp = {"weight": 1.0, "ramp": 0.4} if self.method == "mean_teacher" else {}
            changes["method"] = {"name": self.method, **ramp}
        if self.problem != "none":
            changes["problem"] = {
                "name": self.problem, "estimator": self.estimator, "holdout_view": "weak", "form": "released",
                "inner": self._inner,
            }  # fmt: skip
        sections = SECTIONS if self.kind_ == "numbers" else ("task", *SECTIONS)
        for section in self.settings or {}:
            if section not in sections:
                raise source.unknown(("settings", str(section)), sections)
        asked = {key: value for key, value in (self.settings or {}).items() if key != "task"}
        return merge(merge(source, changes, components=COMPONENTS), asked, ("settings",))

    def _systems(self) -> Any:
        if isinstance(self.systems, str):
            return self.systems if self.systems == "auto" else [self.systems]
        return list(self.systems)

    # answers ---------------------------------------------------------------------------------------------------------

    def _checked(self, X: Any) -> np.ndarray | Data:
        """New rows of the kind that it is fitted to.

        Raises:
            TypeError: for another kind. ValueError: for other columns.
        """
        check_is_fitted(self, "predictor_")
        if self.kind_ == "numbers":
            return cast("np.ndarray", validate_data(self, X, dtype=np.float64, reset=False))
        data = data_of(X)
        if data.kind != self.kind_:
            raise TypeError(f"this {type(self).__name__} is fitted to {self.kind_}, and that is {data.kind}")
        if data.kind == "table":
            validate_data(self, _framed(X, data), skip_check_array=True, reset=False)
            if data.index is None or not hasattr(self, "feature_names_in_"):  # columns are found by their place
                data = dataclasses.replace(data, rows=data.rows.set_axis(self._columns, axis=1))
        return data

    def _answers(self, rows: np.ndarray | Data) -> Answers:
        if isinstance(rows, Data):
            return answers_for(self.predictor_, rows, self.originals_)
        inputs = self._scale(rows).double()
        pool = Pool(inputs, None, torch.arange(len(inputs)))
        if self._of_classes or self.predictor_.systems is not None:
            return by_row(self.predictor_.label(pool), len(pool), {})
        values = in_units(
            self.predictor_.task.output, self.predictor_.raw(pool).double()
        )  # whose interval nothing tells
        return Answers(values[:, 0].numpy(), np.full(len(values), np.nan), None)

    @property
    def _unit(self) -> float:
        return 1.0 if self._of_classes else float(self.predictor_.task.output.std[0])  # type: ignore[attr-defined]

    def _shown(self, one: Scored) -> Estimated:
        found = dataclasses.asdict(one.times(100.0 if self._of_classes else 1.0))
        return cast("Estimated", {key: None if value != value else value for key, value in found.items()})

    def _conclude(self, rows: np.ndarray | Data, given: int) -> None:
        from ..reporting.console import expected_said, in_short

        things = rows.things if isinstance(rows, Data) else "rows"
        said = (
            ""
            if self.expected_ is None
            else expected_said(self._shown(self.expected_), "%" if self._of_classes else "")
        )
        conclude(self.verbose, in_short(len(rows), things, given, said))


def _framed(X: Any, data: Data) -> Any:
    """The table as scikit-learn looks for names of columns: the user's own frame, or an array."""
    return X if data.index is not None else data.rows.to_numpy(dtype=object)

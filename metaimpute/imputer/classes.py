"""Classes for rows that have none."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from sklearn.base import ClassifierMixin
from typing_extensions import Self

from ..batches.outputs import Classes
from ..engine.ambient import as_usual
from ..ensemble.conformal import LEVEL
from ..in_memory.answers import Answers
from ..in_memory.data import Data
from ..in_memory.given import Given
from ..tasks.labels import ask_what_means_none, missing
from ..tasks.targets import are_values
from .base import MISSING, Imputer

FEWEST = 20  # labels, below which as many different numbers may well be classes


class MetaImputer(ClassifierMixin, Imputer):
    """Labels for the rows that have none, by several systems at once: ``MetaImputer().fit(X, y).transduction_``.

    ``X`` is what :func:`metaimpute.impute` takes: an array, a data frame with words, dates and gaps, a list of texts, of paths or
    of images; and gets the same systems, weights and intervals. Rows of numbers without a gap are taken as they are: every column
    is an input, standardised. ``y`` holds -1, NaN, None, NaT or pandas.NA where a label is missing, or what they become in an
    array of strings ('None' may be a class, and stays one). By default trees, a kernel machine, linear classifiers, label
    spreading and a network predict, and their probabilities are averaged, weighted by what each predicted of labelled rows that
    it had not been fitted to.

    Args:
        method, problem, estimator: of the network, as in a recipe (``"fixmatch", "l2i"``: FixMatch with Learning to Impute);
            ``metaimpute list methods`` and so on name what there is. None: as in the recipe for such data, of tables FixMatch.
        systems: ``"auto"``, or names among ``extra_trees``, ``kernel``, ``label_spreading``, ``logistic_regression``,
            ``random_forest``, ``self_training`` and ``network``; ``"network"`` alone trains what method and problem say, once.
        combine: ``"mean"``, or ``"best"``: the one system with the lowest loss on rows held out.
        width, depth: units per hidden layer, and hidden layers, of the network; None: 128 and 2. Of tables and arrays alone.
        steps, batch_size, unlabelled_batch_size, learning_rate: of its training; None: as in the recipe for such data, of arrays
            300, 32, 128 and 0.001.
        missing_label: the label that means "none" beside the gaps that pandas knows, of any type; None where -1 and every
            string is a class like any other.
        settings: further keys of a recipe's sections, e.g. ``{"method": {"weight": 1.0}, "problem": {"scale": "raw"}}``; but for
            rows of numbers also of the task, ``{"task": {"words": ["code"]}}``.
        random_state: decides everything random; a whole number gives what ``impute(seed=...)`` does. device: ``auto``, ``cpu``,
            ``cuda``. verbose: 1 shows phases, progress and the result on the standard error.

    Attributes:
        classes_: labels, sorted. transduction_: a label for every row of ``X``, the given one where there was one; None where
            nothing could be read of a row without.
        label_distributions_: predicted probabilities of every row ``[n, classes]``.
        expected_: the share of wrong labels to expect among those imputed, ``error`` with its 90% interval ``low`` to ``high``,
            measured on labelled rows held out; None for the network alone. candidates_: the same of each system, with its weight;
            ``rich.print`` of the estimator shows them as a table.
        warnings_: what looks wrong with the data, a line each. kind_: ``numbers``, ``table``, ``texts`` or ``images``.
        predictor_: all systems, as :func:`metaimpute.load` has them. n_features_in_, feature_names_in_: of tables.
        module_, n_iter_: the trained network, where it takes part, and its steps; loss_curve_: of each, for rows of numbers.

    Raises:
        ValueError: for labels of one class only, a label that may mean "none" in most rows, a number too far from those of
            training, or a setting that is no recipe's. TypeError: for data of another kind. FloatingPointError: when training
            diverges. MissingData: when texts need an encoder that is not installed.
    """

    _of_classes = True
    _inner: ClassVar[dict[str, Any]] = {"optimizer": "sgd", "lr": 0.01, "rate": "trust(0.05)"}

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
        missing_label: Any = MISSING,
        settings: dict[str, Any] | None = None,
        random_state: Any = None,
        device: str = "auto",
        verbose: int = 0,
    ) -> None:
        super().__init__(
            method,
            problem,
            systems=systems,
            combine=combine,
            estimator=estimator,
            width=width,
            depth=depth,
            steps=steps,
            batch_size=batch_size,
            unlabelled_batch_size=unlabelled_batch_size,
            learning_rate=learning_rate,
            settings=settings,
            random_state=random_state,
            device=device,
            verbose=verbose,
        )
        self.missing_label = missing_label

    def _kind_options(self, data: Data) -> dict[str, Any]:
        return {"kind": "classes"} if data.kind == "table" else {}

    @as_usual()
    def fit(self, X: Any, y: Any) -> Self:
        """Trains on rows ``X [n, features]``, or on other data, with labels ``y [n]``, some of them missing."""
        rows, labels = self._rows_and_labels(X, y)
        known = ~missing(labels, self.missing_label)
        held = np.array([label for label, here in zip(labels, known, strict=True) if here])
        _check_classes(held)
        if self.missing_label is not None:
            ask_what_means_none(held, len(labels))
        self.classes_: np.ndarray
        self.classes_, numbers = np.unique(held, return_inverse=True)
        if len(self.classes_) < 2:
            shown = f"one class only ({self.classes_[0]})" if len(self.classes_) else "no label"
            raise ValueError(f"y holds {shown}; labels of at least 2 classes are needed")
        targets = torch.zeros(len(labels), dtype=torch.long)
        targets[torch.from_numpy(known)] = torch.from_numpy(numbers)
        given = Given(labels, known)
        if isinstance(rows, Data):
            given.check_classes()
        self.label_distributions_ = self._shares(self._fit(rows, targets, given, Classes(len(self.classes_))))
        self.transduction_ = self._most_probable(self.label_distributions_)
        self.transduction_[known] = held
        return self

    def _shares(self, found: Answers) -> np.ndarray:
        """Probabilities in the order of ``classes_``, whatever the run's was."""
        assert found.probabilities is not None
        return self._in_order(found.probabilities)

    def _in_order(self, columns: np.ndarray) -> np.ndarray:
        """A column ``[n]`` for each class of the run, in the order of ``classes_``."""
        if self.kind_ == "numbers":
            return columns
        found = np.zeros((len(columns), len(self.classes_)), dtype=columns.dtype)
        for column, name in enumerate(self.predictor_.label_names):
            found[:, self.classes_ == self.originals_[name]] = columns[:, column, None]
        return found

    def _most_probable(self, shares: np.ndarray) -> np.ndarray:
        """A label for each row; None where nothing could be read of one."""
        unread = np.isnan(shares).any(1)
        labels: np.ndarray = self.classes_[np.where(unread[:, None], 0.0, shares).argmax(1)]
        if unread.any():
            labels = labels.astype(object)
            labels[unread] = None
        return labels

    @as_usual()
    def predict_proba(self, X: Any) -> np.ndarray:
        """Probabilities ``[n, classes]``, columns in the order of ``classes_``; NaN for a row that holds nothing, as a blank
        text."""
        return self._shares(self._answers(self._checked(X)))

    @as_usual()
    def predict(self, X: Any) -> np.ndarray:
        """The most probable label of each row ``[n]``; None for a row that holds nothing."""
        return self._most_probable(self.predict_proba(X))

    @as_usual()
    def predict_sets(self, X: Any, level: float = LEVEL) -> np.ndarray:
        """Which classes each row may be of: sets that hold the right one with a probability of ``level``, truth values
        ``[n, classes]`` with columns in the order of ``classes_``; all of them for a row that holds nothing.

        Raises:
            ValueError: for the network alone, which no labelled row was held out of.
        """
        rows = self._checked(X)
        if not 0 < level < 1:
            raise ValueError(f"level is a probability between 0 and 1, not {level!r}")
        if self.predictor_.systems is None:
            raise ValueError("sets need labelled rows that were held out; take systems='auto'")
        shares = self._answers(rows).probabilities
        assert shares is not None
        return self._in_order(self.predictor_.systems.class_sets(np.nan_to_num(shares, nan=1.0), level))


def _check_classes(given: np.ndarray) -> None:
    from sklearn.utils.multiclass import check_classification_targets

    if not len(given):
        return
    words = [str(label) for label in given]
    if given.dtype.kind in "iuf" and are_values(list(dict.fromkeys(words)), len(words)) and len(words) > FEWEST:
        raise ValueError(
            f"Unknown label type: continuous. y holds {len(set(words)):,} different numbers in {len(words):,} rows, as values "
            "do; take MetaImputerRegressor, or make strings of them if they are classes"
        )
    check_classification_targets(given)

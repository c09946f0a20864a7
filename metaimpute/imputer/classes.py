"""Classes for rows that have none."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from sklearn.base import ClassifierMixin
from typing_extensions import Self

from ..batches.outputs import Classes
from ..engine.ambient import as_usual
from ..tasks.labels import ask_what_means_none, missing
from .base import MISSING, Imputer, rows_and_labels


class MetaImputer(ClassifierMixin, Imputer):
    """Labels for the rows that have none, by several systems at once: ``MetaImputer().fit(X, y).transduction_``.

    ``y`` holds -1, NaN, None, NaT or pandas.NA where a label is missing, or what they become in an array of strings ('None' may
    be a class, and stays one). By default trees, a kernel machine, linear classifiers, label spreading and a network trained
    by FixMatch predict, and their probabilities are averaged, weighted by what each predicted of labelled rows that it had not
    been fitted to. Columns are standardised; give it numbers (a ColumnTransformer makes them of a table).

    Args:
        method, problem, estimator: of the network, as in a recipe (``"fixmatch", "l2i"``: FixMatch with Learning to Impute);
            ``metaimpute list methods`` and so on name what there is.
        systems: ``"auto"``, or names among ``extra_trees``, ``kernel``, ``label_spreading``, ``logistic_regression``,
            ``random_forest``, ``self_training`` and ``network``; ``"network"`` alone trains what method and problem say, once.
        combine: ``"mean"``, or ``"best"``: the one system with the lowest loss on rows held out.
        width, depth: units per hidden layer, and hidden layers, of the network.
        steps, batch_size, unlabelled_batch_size, learning_rate: of its training.
        missing_label: the label that means "none" beside the gaps that pandas knows, of any type; None where -1 and every
            string is a class like any other.
        settings: further keys of a recipe's sections, e.g. ``{"method": {"weight": 1.0}, "problem": {"scale": "raw"}}``.
        random_state: decides everything random. device: ``auto``, ``cpu``, ``cuda``.

    Attributes:
        classes_: labels, sorted. transduction_: a label for every row of ``X``, the given one where there was one.
        label_distributions_: predicted probabilities of every row ``[n, classes]``.
        expected_: the share of wrong labels to expect among those imputed, ``error`` with its 90% interval ``low`` to ``high``,
            measured on labelled rows held out; None for the network alone. candidates_: the same of each system, with its weight.
        n_features_in_. module_, n_iter_, loss_curve_: the trained network, on standardised columns, where it takes part.

    Raises:
        ValueError: for labels of one class only, a label that may mean "none" in most rows, a number too far from those of
            training, or a setting that is no recipe's. FloatingPointError: when training diverges.
    """

    _inner: ClassVar[dict[str, Any]] = {"optimizer": "sgd", "lr": 0.01, "rate": "trust(0.05)"}

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
        missing_label: Any = MISSING,
        settings: dict[str, Any] | None = None,
        random_state: Any = None,
        device: str = "auto",
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
        )
        self.missing_label = missing_label

    @as_usual()
    def fit(self, X: Any, y: Any) -> Self:
        """Trains on rows ``X [n, features]`` with labels ``y [n]``, some of them missing."""
        X, labels = rows_and_labels(self, X, y)
        known = ~missing(labels, self.missing_label)
        given = np.array([label for label, here in zip(labels, known, strict=True) if here])
        _check_classes(given)
        if self.missing_label is not None:
            ask_what_means_none(given, len(labels))
        self.classes_: np.ndarray
        self.classes_, numbers = np.unique(given, return_inverse=True)
        if len(self.classes_) < 2:
            shown = f"one class only ({self.classes_[0]})" if len(self.classes_) else "no label"
            raise ValueError(f"y holds {shown}; labels of at least 2 classes are needed")
        targets = torch.zeros(len(X), dtype=torch.long)
        targets[torch.from_numpy(known)] = torch.from_numpy(numbers)
        self.label_distributions_ = self._fit(X, targets, known, Classes(len(self.classes_)))
        self.transduction_ = self.classes_[self.label_distributions_.argmax(1)]
        self.transduction_[known] = given
        return self

    @as_usual()
    def predict_proba(self, X: Any) -> np.ndarray:
        """Probabilities ``[n, classes]``, columns in the order of ``classes_``."""
        return self._predicted(self._checked(X))

    @as_usual()
    def predict(self, X: Any) -> np.ndarray:
        """The most probable label of each row ``[n]``."""
        most_probable = self.predict_proba(X).argmax(1)
        labels: np.ndarray = self.classes_[most_probable]
        return labels


def _check_classes(given: np.ndarray) -> None:
    from sklearn.utils.multiclass import check_classification_targets

    if len(given):
        check_classification_targets(given)

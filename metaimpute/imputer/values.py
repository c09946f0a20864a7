"""Values for rows that have none."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np
import torch
from sklearn.base import RegressorMixin
from typing_extensions import Self

from ..batches.outputs import Quantities
from ..engine.ambient import as_usual
from ..tasks.labels import missing
from .base import LARGE, Imputer, rows_and_labels


class MetaImputerRegressor(RegressorMixin, Imputer):
    """As :class:`MetaImputer` for a numeric target; ``y`` holds NaN or None where a value is missing.

    Systems are ``extra_trees``, ``gaussian_process`` (up to 400 values), ``kernel``, ``random_forest``, ``ridge`` and
    ``network``, which is a Mean Teacher. L2I's look-ahead, where it is asked for, changes values by a fifth of their standard
    deviation: nothing bounds a value, and a longer one drives them far off.

    Attributes:
        transduction_: a value for every row of ``X``, the given one where there was one.
    """

    _inner: ClassVar[dict[str, Any]] = {"optimizer": "sgd", "lr": 1e-3, "rate": "trust(0.2)"}

    def __init__(
        self,
        method: str = "mean_teacher",
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

    @as_usual()
    def fit(self, X: Any, y: Any) -> Self:
        """Trains on rows ``X [n, features]`` with values ``y [n]``, some of them missing."""
        X, labels = rows_and_labels(self, X, y)
        known = ~missing(labels, None)
        if not known.any():
            raise ValueError("y holds no value")
        given = torch.tensor(
            [_value(value) for value, here in zip(labels, known, strict=True) if here], dtype=torch.float64
        )
        if not bool(torch.isfinite(given).all()):
            raise ValueError("y contains infinity; a missing value is NaN or None")
        if float(given.abs().max()) > LARGE:
            raise ValueError(
                f"y contains {float(given.abs().max()):g}, more than can be computed with ({LARGE:g}); rescale it"
            )
        spread = float(given.std(correction=0))
        output = Quantities(1, mean=(float(given.mean()),), std=(spread if spread > 0 else 1.0,))
        targets = torch.zeros(len(X), 1)
        targets[torch.from_numpy(known)] = output.standardized(given[:, None]).float()
        self.transduction_ = self._in_units(self._fit(X, targets, known, output))
        unit = float(output.std[0])
        self.candidates_ = tuple(one.times(unit) for one in self.candidates_)
        self.expected_ = None if self.expected_ is None else self.expected_.times(unit)
        self.transduction_[known] = given.numpy()
        return self

    @as_usual()
    def predict(self, X: Any) -> np.ndarray:
        """Values ``[n]``."""
        return self._in_units(self._predicted(self._checked(X)))

    def _in_units(self, standardised: np.ndarray) -> np.ndarray:
        columns = torch.from_numpy(np.asarray(standardised, dtype=np.float64))[:, None]
        return np.asarray(self.output_.original(columns)[:, 0])


def _value(label: Any) -> float:
    try:
        return float(label)
    except OverflowError:
        return math.inf

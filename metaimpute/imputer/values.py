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
from ..in_memory.data import Data
from ..in_memory.given import Given
from ..tasks.labels import missing
from .base import Imputer
from .scale import LARGE


class MetaImputerRegressor(RegressorMixin, Imputer):
    """As :class:`MetaImputer` for a numeric target; ``y`` holds NaN or None where a value is missing.

    Systems are ``extra_trees``, ``gaussian_process`` (up to 400 values), ``kernel``, ``random_forest``, ``ridge`` and
    ``network``, which is a Mean Teacher. L2I's look-ahead, where it is asked for, changes values by a fifth of their standard
    deviation: nothing bounds a value, and a longer one drives them far off.

    Attributes:
        transduction_: a value for every row of ``X``, the given one where there was one.
        spread_: half the width of the interval that is to hold 90 of 100 of them, ``[n]``, 0 where they were given; NaN for the
            network alone. expected_: the root mean squared error to expect, in the values' unit.
    """

    _of_classes = False
    _inner: ClassVar[dict[str, Any]] = {"optimizer": "sgd", "lr": 1e-3, "rate": "trust(0.2)"}

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

    def _kind_options(self, data: Data) -> dict[str, Any]:
        return {"kind": "values"}

    @as_usual()
    def fit(self, X: Any, y: Any) -> Self:
        """Trains on rows ``X [n, features]``, or on a table, with values ``y [n]``, some of them missing."""
        rows, labels = self._rows_and_labels(X, y)
        if isinstance(rows, Data) and rows.kind != "table":
            raise TypeError(f"values are predicted of tables alone, and {rows.kind} have classes: MetaImputer")
        known = ~missing(labels, None)
        if not known.any():
            raise ValueError("y holds no value")
        values = np.full(len(labels), np.nan)
        values[known] = [_value(value) for value in labels[known]]
        given = torch.from_numpy(values[known])
        if not bool(torch.isfinite(given).all()):
            raise ValueError("y contains infinity; a missing value is NaN or None")
        if float(given.abs().max()) > LARGE:
            raise ValueError(
                f"y contains {float(given.abs().max()):g}, more than can be computed with ({LARGE:g}); rescale it"
            )
        spread = float(given.std(correction=0))
        output = Quantities(1, mean=(float(given.mean()),), std=(spread if spread > 0 else 1.0,))
        targets = torch.zeros(len(labels), 1)
        targets[torch.from_numpy(known)] = output.standardized(given[:, None]).float()
        found = self._fit(rows, targets, Given(values, known), output)
        self.transduction_, self.spread_ = found.labels, found.sure
        self.transduction_[known], self.spread_[known] = values[known], 0.0
        return self

    @as_usual()
    def predict(self, X: Any, return_spread: bool = False) -> Any:
        """Values ``[n]``; with ``return_spread`` also half the width of each one's 90% interval ``[n]``, NaN for the network
        alone."""
        found = self._answers(self._checked(X))
        return (found.labels, found.sure) if return_spread else found.labels


def _value(label: Any) -> float:
    try:
        return float(label)
    except OverflowError:
        return math.inf

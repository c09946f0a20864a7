"""Columns of numbers standardised, whatever their size, and numbers too far from those of training refused."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

SPREAD = 1e-12  # of a column; one that varies less is left as it is
LARGE, FARTHEST = 1e100, 1e30  # beyond the one squares are infinite in float64, beyond the other in float32 soon


@dataclass(frozen=True)
class Scale:
    """Mean and spread of each column ``[features]``, and the unit that keeps its squares finite."""

    mean: np.ndarray
    spread: np.ndarray
    unit: np.ndarray

    @classmethod
    def of(cls, rows: np.ndarray) -> Scale:
        """The scale of rows ``[n, features]``."""
        largest = np.abs(rows).max(0)
        unit = np.where(largest > LARGE, largest, 1.0)
        mean, spread = (rows / unit).mean(0) * unit, (rows / unit).std(0) * unit
        return cls(mean, np.where(spread > SPREAD * (1 + np.abs(mean)), spread, 1.0), unit)

    def __call__(self, rows: np.ndarray) -> Tensor:
        """Standardised rows as float32.

        Raises:
            ValueError: naming a number so far from those of training that a network's arithmetic would overflow.
        """
        with np.errstate(over="ignore"):
            found = (rows / self.unit - self.mean / self.unit) / (self.spread / self.unit)
        far = np.argwhere(~(np.abs(found) <= FARTHEST))
        if len(far):
            row, place = far[0]
            raise ValueError(
                f"X[{row}, {place}] is {rows[row, place]:g}, more than {FARTHEST:g} standard deviations from the mean in "
                f"training ({self.mean[place]:g}): nothing can be predicted from it"
            )
        return torch.from_numpy(found.astype(np.float32))

"""Estimators of scikit-learn's kind: rows of numbers, labels with gaps, ``fit`` and ``predict``."""

from .classes import MetaImputer
from .values import MetaImputerRegressor

__all__ = ["MetaImputer", "MetaImputerRegressor"]

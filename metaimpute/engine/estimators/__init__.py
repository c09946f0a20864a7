"""Hypergradient estimators, one file each; importing this package registers all of them."""

from .approx import Approx
from .base import Estimator, EstimatorError, HypergradientResult, estimators, register_estimator
from .exact import Exact, FirstOrder
from .head import Head
from .mixed import Mixed

__all__ = [
    "Approx", "Estimator", "EstimatorError", "Exact", "FirstOrder", "Head", "HypergradientResult", "Mixed",
    "estimators", "register_estimator",
]  # fmt: skip

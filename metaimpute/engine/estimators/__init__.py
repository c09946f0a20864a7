"""Hypergradient estimators, one file each; importing this package registers all of them."""

from .approx import Approx
from .base import Estimator, EstimatorError, estimators, register_estimator
from .evolution import EvolutionStrategies
from .exact import Exact, FirstOrder, Truncated
from .finite_difference import FiniteDifference
from .forward import Forward, ForwardGradient
from .head import Head
from .implicit import ConjugateGradient, Neumann
from .mixed import Mixed
from .result import HypergradientResult

__all__ = [
    "Approx",
    "ConjugateGradient",
    "Estimator",
    "EstimatorError",
    "EvolutionStrategies",
    "Exact",
    "FiniteDifference",
    "FirstOrder",
    "Forward",
    "ForwardGradient",
    "Head",
    "HypergradientResult",
    "Mixed",
    "Neumann",
    "Truncated",
    "estimators",
    "register_estimator",
]

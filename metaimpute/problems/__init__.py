"""Bilevel problems, one file each; importing this package registers all of them."""

import importlib
import pkgutil

from .base import BilevelProblem, Context, ProblemError, Sizes, problems, register_problem
from .l2i import L2I, HoldoutSupervision, RandomDirection, ZeroHypergradient
from .l2i_learnable import L2ILearnable
from .none import NoProblem

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

__all__ = [
    "L2I",
    "BilevelProblem",
    "Context",
    "HoldoutSupervision",
    "L2ILearnable",
    "NoProblem",
    "ProblemError",
    "RandomDirection",
    "Sizes",
    "ZeroHypergradient",
    "problems",
    "register_problem",
]

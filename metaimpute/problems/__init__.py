"""Bilevel problems, one file each; importing this package registers all of them."""

from .base import BilevelProblem, Context, ProblemError, Sizes, problems, register_problem
from .l2i import L2I, HoldoutSupervision, RandomDirection, ZeroHypergradient
from .l2i_learnable import L2ILearnable
from .none import NoProblem

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

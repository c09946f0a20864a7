"""Solvers of linear systems by name, with their options, what is checked of an answer, warm starts and preconditioners."""

from .base import LinearSolver, solvers
from .choice import Solving, WarmStart, linear_solver
from .direct import Direct
from .iterative import CG, GMRES, BiCGSTAB, NeumannSeries, NormalCG, Richardson
from .systems import Jacobi, LinearSystem, SolverError, on_trees

__all__ = [
    "CG",
    "GMRES",
    "BiCGSTAB",
    "Direct",
    "Jacobi",
    "LinearSolver",
    "LinearSystem",
    "NeumannSeries",
    "NormalCG",
    "Richardson",
    "SolverError",
    "Solving",
    "WarmStart",
    "linear_solver",
    "on_trees",
    "solvers",
]

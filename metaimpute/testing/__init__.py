"""Checks of gradients on one's own losses and problems, for tests and for the first minutes with a new idea."""

from __future__ import annotations

from .hypergradients import check_hypergradient
from .problems import check_problem, check_recipe
from .report import GradientCheckFailed, Report, Term

__all__ = ["GradientCheckFailed", "Report", "Term", "check_hypergradient", "check_problem", "check_recipe"]

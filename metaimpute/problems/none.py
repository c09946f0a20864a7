"""The base method alone: no bilevel stage."""

from __future__ import annotations

from .base import BilevelProblem, register_problem


@register_problem("none")
class NoProblem(BilevelProblem):
    """The base method alone, one optimiser step per iteration."""

    dealt_coupling = "whole"
    learns = "nothing"
    needs_estimate = False

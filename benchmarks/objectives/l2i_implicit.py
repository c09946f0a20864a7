"""L2I through the solution of a convex head against a hypergradient of zero, on digits, both with folds."""

from __future__ import annotations

from .claim import Claim, error_of

RECIPE = "digits_l2i_implicit"

CLAIM = Claim(
    paper="Learning to Impute has no table of this form",
    claim="FixMatch with L2I through a solved head has a smaller test error than with a hypergradient of zero",
    arms={
        "l2i_implicit": error_of(RECIPE),
        "hypergradient zero": error_of(RECIPE, "problem.name=zero_hypergradient"),
    },
    holds=lambda mean: mean["l2i_implicit"]["test_error"] < mean["hypergradient zero"]["test_error"],
    tuned="nothing",
)

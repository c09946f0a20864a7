"""L2I through the solution of a convex head, and L2I with folds, against a hypergradient of zero, on digits."""

from __future__ import annotations

from .claim import Claim, error_of

RECIPE = "digits_l2i_implicit"
UNROLLED = "problem={name: l2i, estimator: head, holdout: folds(4), inner: {lr: 0.5, steps: 5}}"

CLAIM = Claim(
    paper="Learning to Impute has no table of this form",
    claim="FixMatch with L2I through a solved head has a smaller test error than with a hypergradient of zero",
    arms={
        "l2i_implicit": error_of(RECIPE),
        "l2i, five steps of the head, folds(4)": error_of(RECIPE, UNROLLED),
        "hypergradient zero": error_of(RECIPE, "problem.name=zero_hypergradient"),
    },
    holds=lambda mean: mean["l2i_implicit"]["test_error"] < mean["hypergradient zero"]["test_error"],
    tuned="nothing",
)

"""Robust SSL is not worse than the labels alone where 60% of the unlabelled rows are of other classes (Zhao et al., 2020)."""

from __future__ import annotations

from .claim import Claim, error_of

RECIPE = "digits_robust_ssl"

CLAIM = Claim(
    paper="Zhao et al., 2020",
    claim="at 60% class mismatch, test error below that of the base method and not above that of the labels alone",
    arms={
        "robust_ssl": error_of(RECIPE),
        "without weighted BatchNorm": error_of(RECIPE, "problem.weighted_norm=false"),
        "base method": error_of(RECIPE, "problem.name=none"),
        "labels alone": error_of(RECIPE, "problem.name=none", "method.name=supervised"),
    },
    holds=lambda mean: (
        mean["robust_ssl"]["test_error"] < mean["base method"]["test_error"]
        and mean["robust_ssl"]["test_error"] <= mean["labels alone"]["test_error"]
    ),
    tuned="on seed 100",
)

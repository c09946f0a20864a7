"""DS3L is not worse than the labels alone where 60% of the unlabelled rows are of other classes (Guo et al., 2020)."""

from __future__ import annotations

from .claim import Claim, error_of

RECIPE = "digits_ds3l"

CLAIM = Claim(
    paper="Guo et al., 2020, on MNIST",
    claim="at 60% class mismatch, test error not above that of the labels alone",
    arms={
        "ds3l": error_of(RECIPE),
        "hypergradient zero": error_of(RECIPE, "problem.weight=0"),
        "base method": error_of(RECIPE, "problem.name=none"),
        "labels alone": error_of(RECIPE, "problem.name=none", "method.name=supervised"),
    },
    holds=lambda mean: mean["ds3l"]["test_error"] <= mean["labels alone"]["test_error"],
    tuned="on seed 100",
)

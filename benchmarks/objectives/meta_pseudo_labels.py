"""Meta pseudo labels solve two moons with six labels where pseudo labels fail (Pham et al., 2021)."""

from __future__ import annotations

from .claim import Claim, error_of

RECIPE = "two_moons_meta_pseudo_labels"
SOLVED = 5.0  # percent


CLAIM = Claim(
    paper="Pham et al., 2021, the two-moons experiment",
    claim="error below 5% on two moons with six labels, where pseudo labels and the labels alone stay above 10%",
    arms={
        "meta_pseudo_labels": error_of(RECIPE),
        "teacher without feedback": error_of(RECIPE, "problem.inner.lr=1.0e-12"),
        "pseudo labels": error_of(RECIPE, "problem.name=none", "method.name=pseudo_label"),
        "labels alone": error_of(RECIPE, "problem.name=none"),
    },
    holds=lambda mean: (
        mean["meta_pseudo_labels"]["test_error"] < SOLVED
        and min(mean[arm]["test_error"] for arm in ("pseudo labels", "labels alone")) > 2 * SOLVED
    ),
    tuned="on seeds 100 and 101",
)

"""Learned scalars mend a badly chosen threshold and temperature on digits (the use of Luketina et al., ICML 2016)."""

from __future__ import annotations

from .claim import Claim, error_of

RECIPE = "digits_learned_scalars"
BAD = ("problem.threshold=0.2", "problem.temperature=3")

CLAIM = Claim(
    paper="Luketina et al., 2016; no table of theirs is of this setting",
    claim="from a threshold of 0.2 and a temperature of 3, learning them ends with a smaller test error than keeping them",
    arms={
        "learned from a bad start": error_of(RECIPE, *BAD),
        "bad start, hypergradient zero": error_of(RECIPE, *BAD, "problem.weight=0"),
        "learned from FixMatch's values": error_of(RECIPE),
        "FixMatch's values, hypergradient zero": error_of(RECIPE, "problem.weight=0"),
    },
    holds=lambda mean: (
        mean["learned from a bad start"]["test_error"] < mean["bad start, hypergradient zero"]["test_error"]
    ),
    tuned="outer learning rate and bad start on seeds 100 and 101",
)

"""Meta-SGD's learned rates on sine waves: one step on ten points beats MAML's (Li et al., 2017, section 4.1)."""

from __future__ import annotations

from .claim import Claim, error_of

CLAIM = Claim(
    paper="Li et al., 2017, section 4.1: sine waves, one step",
    claim="after one step on ten points the error on new waves is below MAML's",
    arms={
        "meta_sgd": error_of("sinusoid_meta_sgd", "problem.test_steps=1", "train.steps=1500"),
        "maml": error_of("sinusoid_maml", "problem.test_steps=1", "train.steps=1500"),
    },
    holds=lambda mean: mean["meta_sgd"]["test_error"] < mean["maml"]["test_error"],
    tuned="nothing: MAML's settings for both, 1,500 iterations",
)

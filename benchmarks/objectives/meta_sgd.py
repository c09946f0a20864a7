"""Meta-SGD's learned rates on sine waves: one step on ten points beats MAML's (Li et al., 2017, section 4.1)."""

from __future__ import annotations

from collections.abc import Callable

from .claim import Claim, Numbers, error_of


def squared_error_of(recipe: str) -> Callable[[int], Numbers]:
    """Mean squared error on new waves after one step."""
    run = error_of(recipe, "problem.test_steps=1", "train.steps=1500")
    return lambda seed: {"squared_error": run(seed)["test_error"]}


CLAIM = Claim(
    paper="Li et al., 2017, section 4.1: sine waves, one step",
    claim="after one step on ten points the error on new waves is below MAML's",
    arms={"meta_sgd": squared_error_of("sinusoid_meta_sgd"), "maml": squared_error_of("sinusoid_maml")},
    holds=lambda mean: mean["meta_sgd"]["squared_error"] < mean["maml"]["squared_error"],
    tuned="nothing: MAML's settings for both, 1,500 iterations",
)

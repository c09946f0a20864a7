"""Weights of unlabelled rows, by implicit differentiation and through the steps: not worse than equal ones (Ren et al., 2020)."""

from __future__ import annotations

from .claim import Claim, Numbers, error_of, trained

RECIPE = "digits_unlabelled_weights"


def ranked(seed: int, *sets: str) -> Numbers:
    """Test error, and how often a row of a known class weighs more than one of another class (ties count half)."""
    session, numbers = trained(RECIPE, seed, *sets)
    meta, targets = session.algorithm.meta, session.data.unlabelled.targets
    assert meta is not None and targets is not None
    inside, outside = meta["logits"].detach()[targets < 6], meta["logits"].detach()[targets >= 6]
    above = (inside[:, None] - outside[None]).sign().mean()
    return {"AUC": float((1 + above) / 2), **numbers}


CLAIM = Claim(
    paper="Ren, Yeh and Schwing, 2020",
    claim="learned weights are not worse than equal ones; here at 60% class mismatch, and rows of known classes weigh more",
    arms={
        "unlabelled_weights, implicit (cg)": ranked,
        "unlabelled_weights, one step unrolled (mixed)": lambda seed: ranked(seed, "problem.estimator=mixed"),
        "base method": error_of(RECIPE, "problem.name=none"),
        "labels alone": error_of(RECIPE, "problem.name=none", "method.name=supervised"),
    },
    holds=lambda mean: (
        mean["unlabelled_weights, implicit (cg)"]["test_error"] <= mean["base method"]["test_error"]
        and mean["unlabelled_weights, implicit (cg)"]["AUC"] > 0.5
    ),
    tuned="on seed 100",
)

"""MAML's start on sine waves: five steps on ten points end far below those from joint training (Finn et al., 2017)."""

from __future__ import annotations

import dataclasses

from metaimpute import sgd

from .claim import Claim, Numbers, trained

RECIPE = "sinusoid_maml"


def by_steps(seed: int, *sets: str, lr: float | None = None) -> Numbers:
    """Mean squared error on new waves before any step, after one and after five."""
    session, _ = trained(RECIPE, seed, *sets)
    algorithm = session.algorithm
    if lr is not None:
        algorithm.settings = dataclasses.replace(algorithm.settings, optimizer=sgd(lr))
    found = {}
    for steps in (1, 5):
        algorithm.problem.test_steps = steps  # type: ignore[attr-defined]
        found[f"after {steps}"] = session.evaluate()["test_error"]
    return found


CLAIM = Claim(
    paper="Finn et al., 2017, section 5.1 and figure 3, which prints curves and no numbers",
    claim="after five steps on ten points the error on new waves is below a fifth of that from jointly trained weights",
    arms={
        "maml": by_steps,
        "trained on all waves jointly": lambda seed: by_steps(seed, "problem.inner.lr=1.0e-9", lr=0.01),
    },
    holds=lambda mean: mean["maml"]["after 5"] < 0.2 * mean["trained on all waves jointly"]["after 5"],
    tuned="nothing: sizes and rates are the paper's, with 5,000 iterations in the place of 70,000",
)

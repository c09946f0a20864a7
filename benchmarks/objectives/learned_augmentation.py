"""Learned strengths follow what the held-out examples look like (the behaviour that Benton et al., NeurIPS 2020, show)."""

from __future__ import annotations

from .claim import Claim, Numbers, trained

RECIPE = "digits_learned_augmentation"


def learned(seed: int, *sets: str) -> Numbers:
    session, numbers = trained(RECIPE, seed, *sets)
    meta = session.algorithm.meta
    assert meta is not None
    found = session.algorithm.problem.measure(meta)
    return {"rotate": found["strength_rotate"], "shift": found["strength_shift"], **numbers}


CLAIM = Claim(
    paper="Benton et al., 2020, section 4.1 (Mario and iggy): learned ranges are those of the data",
    claim="from 5 degrees, the learned rotation is larger where held-out digits are turned than where they are upright",
    arms={
        "held-out digits turned": learned,
        "held-out digits upright": lambda seed: learned(seed, "problem.holdout_view=none"),
        "turned, hypergradient zero": lambda seed: learned(seed, "problem.weight=0"),
    },
    holds=lambda mean: mean["held-out digits turned"]["rotate"] > mean["held-out digits upright"]["rotate"],
    tuned="nothing",
)

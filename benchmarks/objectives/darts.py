"""The operations that DARTS chooses for digits against operations drawn at random (Liu et al., ICLR 2019, Table 1)."""

from __future__ import annotations

import random

from .claim import Claim, Numbers, trained

RECIPE = "digits_darts"
DRAWS = 2


def retrained(seed: int, names: list[str]) -> float:
    """Test error of the network that has these operations, trained on all labels."""
    chosen = f"model.chosen=[{', '.join(names)}]"
    return trained(RECIPE, seed, "problem={name: none}", chosen)[1]["test_error"]


def found(seed: int, *sets: str) -> Numbers:
    """Of every edge the operation of the largest weight, ``none`` apart, as in the paper's section 2.4."""
    session, _ = trained(RECIPE, seed, *sets)
    meta, operations = session.algorithm.meta, session.recipe.model.operations  # type: ignore[attr-defined]
    usable = [place for place, name in enumerate(operations) if name != "none"]
    assert meta is not None
    names = [operations[max(usable, key=lambda place, v=v: float(v[place]))] for v in meta.values()]  # type: ignore[misc]
    return {"test_error": retrained(seed, names), "convolutions": sum("_1" in n or "_3" in n for n in names)}


def drawn(seed: int) -> Numbers:
    """Mean over architectures drawn at random."""
    from metaimpute.models.mixed_cnn import OPERATIONS

    rng = random.Random(seed)
    usable = [name for name in OPERATIONS if name != "none"]
    choices = [[rng.choice(usable) for _ in range(4)] for _ in range(DRAWS)]
    errors = [retrained(seed, names) for names in choices]
    count = sum("_1" in name or "_3" in name for names in choices for name in names)
    return {"test_error": sum(errors) / DRAWS, "convolutions": count / DRAWS}


CLAIM = Claim(
    paper="Liu et al., 2019, Table 1 (CIFAR-10: 2.76% with the second-order search, 3.29% at random)",
    claim="retrained on all labels, the operations that the search chose have a smaller test error than random ones",
    arms={
        "found, finite_difference": found,
        f"mean of {DRAWS} drawn at random": drawn,
    },
    holds=lambda mean: (
        mean["found, finite_difference"]["test_error"] < mean[f"mean of {DRAWS} drawn at random"]["test_error"]
    ),
    tuned="nothing",
)

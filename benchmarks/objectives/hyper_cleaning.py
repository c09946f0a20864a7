"""Hyper-cleaning finds wrong labels of digits: F1 above 0.9 at 40% noise (Franceschi et al., 2017)."""

from __future__ import annotations

from .claim import Claim, Numbers, error_of, trained

RECIPE = "digits_hyper_cleaning"


def found(seed: int, *sets: str) -> Numbers:
    """Test error, and F1 of taking rows with a weight below a half for wrong."""
    session, numbers = trained(RECIPE, seed, *sets)
    data, rows, meta = session.data, session.batches.labelled, session.algorithm.meta
    assert data.clean is not None and rows.targets is not None and meta is not None
    truth = dict(zip(data.labelled.ids.tolist(), data.clean.tolist(), strict=True))
    wrong = [truth[row] != label for row, label in zip(rows.ids.tolist(), rows.targets.tolist(), strict=True)]
    doubted = (meta["logits"] < 0).tolist()
    both = sum(a and b for a, b in zip(wrong, doubted, strict=True))
    return {"F1": 2 * both / max(sum(wrong) + sum(doubted), 1), **numbers}


CLAIM = Claim(
    paper="Franceschi et al., 2017",
    claim="F1 above 0.9 of finding the wrong labels among 900 digits of which 40% are wrong",
    arms={
        "hyper_cleaning": found,
        "hyper_cleaning, hypergradient zero": lambda seed: found(seed, "problem.weight=0"),
        "all labels": error_of(RECIPE, "problem.name=none"),
        "right labels alone": error_of(RECIPE, "problem.name=none", "task.label_noise.rate=0"),
    },
    holds=lambda mean: mean["hyper_cleaning"]["F1"] > 0.9,
    tuned="learning rates on seed 100",
)

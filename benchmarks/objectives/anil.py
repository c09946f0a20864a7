"""ANIL does what MAML does with steps of the last layer alone (Raghu et al., ICLR 2020), on digits not seen in training."""

from __future__ import annotations

from .claim import Claim, error_of

RECIPE = "digits_anil"

CLAIM = Claim(
    paper="Raghu et al., 2020, section 4: ANIL is on a par with MAML on few-shot images",
    claim="3 ways, 1 shot of digits that training has not seen: ANIL's error is within 2 points of MAML's",
    arms={
        "anil": error_of(RECIPE),
        "maml": error_of(RECIPE, "problem.name=maml"),
        "no training, steps of all layers": error_of(RECIPE, "problem.name=maml", "train.steps=1"),
    },
    holds=lambda mean: mean["anil"]["test_error"] < mean["maml"]["test_error"] + 2.0,
    tuned="nothing",
)

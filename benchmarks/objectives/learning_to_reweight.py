"""Learning to reweight at 40% wrong labels is below training on all labels and on the trusted ones alone."""

from __future__ import annotations

from .claim import Claim, below_both, cleaner

CLAIM = Claim(
    paper="Ren et al., 2018",
    claim="test error below training on all labels, 40% of them wrong, and below the trusted ones alone",
    arms=cleaner("learning_to_reweight"),
    holds=below_both("learning_to_reweight"),
    tuned="learning rates and length on seed 100",
)

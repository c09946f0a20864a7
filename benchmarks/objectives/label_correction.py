"""Meta label correction at 40% wrong labels is below training on all labels and on the trusted ones alone."""

from __future__ import annotations

from .claim import Claim, below_both, cleaner

CLAIM = Claim(
    paper="Zheng et al., 2021",
    claim="test error below training on all labels, 40% of them wrong, and below the trusted ones alone",
    arms=cleaner("label_correction"),
    holds=below_both("label_correction"),
    tuned="learning rates and length on seed 100",
)

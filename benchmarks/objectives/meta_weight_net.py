"""Meta-Weight-Net at 40% wrong labels is below training on all labels and on the trusted ones alone."""

from __future__ import annotations

from .claim import Claim, below_both, cleaner

CLAIM = Claim(
    paper="Shu et al., 2019",
    claim="test error below training on all labels, 40% of them wrong, and below the trusted ones alone",
    arms=cleaner("meta_weight_net"),
    holds=below_both("meta_weight_net"),
    tuned="learning rates and length on seed 100",
)

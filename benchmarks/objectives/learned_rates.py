"""Learned rates find their way from one that is far too small (Baydin et al., ICLR 2018, whose claim that is)."""

from __future__ import annotations

from .claim import Claim, Numbers, error_of

RECIPE = "digits_learned_rates"
RATES = (0.01, 0.03, 0.1, 0.3, 1.0)


def best_kept(seed: int) -> Numbers:
    """One rate for all throughout: that of five with the smallest test error, of the test set itself."""
    runs = [
        error_of(RECIPE, "problem.weight=0", f"problem.inner.lr={rate}", f"train.optimizer.lr={rate}")(seed)
        for rate in RATES
    ]
    return min(runs, key=lambda found: found["test_error"])


CLAIM = Claim(
    paper="Baydin et al., 2018, section 5: from a wrong initial rate, learning it closes the gap to one that was tuned",
    claim="from a rate of 0.003, 300 steps with learned ones close most of the gap to the best of five rates",
    arms={
        "learned, one for each layer": error_of(RECIPE),
        "learned, one for all": error_of(RECIPE, "problem.per=all"),
        "0.003, hypergradient zero": error_of(RECIPE, "problem.weight=0"),
        "best of five rates": best_kept,
    },
    holds=lambda mean: (
        mean["0.003, hypergradient zero"]["test_error"] - mean["learned, one for each layer"]["test_error"]
        > 0.5 * (mean["0.003, hypergradient zero"]["test_error"] - mean["best of five rates"]["test_error"])
    ),
    tuned="outer learning rate and steps on seed 100",
)

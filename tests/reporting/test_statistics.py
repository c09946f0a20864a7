"""Paired statistics against values worked out by hand."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest
from scipy import stats

from metaimpute.reporting.statistics import bootstrap_interval, holm, paired, signed_rank


def test_the_interval_of_equal_values_is_that_value() -> None:
    assert bootstrap_interval([2.5] * 4) == (2.5, 2.5)


def test_the_interval_of_two_values_spans_them() -> None:
    """A quarter of all resamples is the lower value twice and a quarter the upper: both lie beyond the 2.5% quantiles."""
    assert bootstrap_interval([1.0, 3.0]) == (1.0, 3.0)


def test_the_interval_of_five_values_cuts_the_tails_of_the_resampled_mean() -> None:
    """Of 0, 0, 0, 0, 1 the sum of a resample is binomial(5, 1/5): P(0) = 0.33, P(>= 3) = 0.058, P(>= 4) = 0.0067."""
    assert bootstrap_interval([0.0, 0.0, 0.0, 0.0, 1.0]) == pytest.approx((0.0, 0.6))


def test_the_interval_approaches_the_normal_one_for_many_values() -> None:
    values = np.random.default_rng(1).normal(3.0, 2.0, 400)
    low, high = bootstrap_interval(values)
    half = 1.96 * values.std() / 20
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.02)


@pytest.mark.parametrize(
    ("differences", "p"),
    [
        ([1.0, 2.0, 3.0, 4.0, 5.0], 2 / 32),  # one sign: two of all 2^5 assignments are as extreme
        ([-1.0, 2.0, 3.0, 4.0, 5.0], 4 / 32),  # rank sum 1: {} and {1}, doubled
        ([1.0, -2.0, 3.0, 4.0, 5.0], 6 / 32),  # rank sum 2: {}, {1}, {2}
        ([1.0, 2.0, -3.0, 4.0, 5.0, 6.0], 10 / 64),  # rank sum 3: {}, {1}, {2}, {3}, {1, 2}
        ([2.0, 2.0, 2.0, 2.0, 2.0], 2 / 32),  # ties
        ([-1.0, 1.0, 2.0, 3.0, 4.0], 6 / 32),  # tied ranks 1.5: {}, {first}, {second}
        ([0.0, 1.0, 2.0, 3.0, 4.0, 5.0], 2 / 32),  # a zero tells nothing
        ([30.5 - 28.1, 2.4, 2.4, 2.4, -(29.9 - 27.5)], 12 / 32),  # of one size but for rounding: ranks 3, sum 3
    ],
)
def test_signed_rank_is_exact_for_few_pairs(differences: list[float], p: float) -> None:
    assert signed_rank(differences) == pytest.approx(p)


@pytest.mark.parametrize("seed", range(4))
def test_signed_rank_counts_every_assignment_of_signs_where_sizes_are_tied(seed: int) -> None:
    sizes = np.random.default_rng(seed).integers(1, 5, 11).astype(float)
    known = sizes * np.random.default_rng(seed + 10).choice([-1, 1, 1], 11)
    ranks = stats.rankdata(sizes)
    every = [float(ranks @ signs) for signs in itertools.product([0, 1], repeat=11)]
    found = float(ranks @ (known > 0))
    tails = [np.mean([one <= found for one in every]), np.mean([one >= found for one in every])]
    assert signed_rank(known) == pytest.approx(min(1.0, 2 * min(tails)), rel=1e-12)


@pytest.mark.parametrize("count", [6, 15, 50, 60])
def test_signed_rank_is_scipys_where_none_are_tied(count: int) -> None:
    values = np.random.default_rng(count).normal(0.3, 1.0, count)
    assert signed_rank(values) == pytest.approx(float(stats.wilcoxon(values).pvalue), rel=1e-10)


def test_signed_rank_says_nothing_of_fewer_than_five_pairs_that_differ() -> None:
    assert signed_rank([1.0, 2.0, 3.0, 4.0]) is None
    assert signed_rank([1.0, 2.0, 3.0, 4.0, 0.0, 0.0]) is None


def test_pairs_are_made_on_shared_seeds_alone() -> None:
    found = paired({0: 10.0, 1: 20.0, 2: 30.0}, {1: 19.0, 2: 27.0, 7: 0.0})
    assert found is not None
    assert found.differences == (-1.0, -3.0) and found.mean == -2.0
    assert found.p is None and found.lower == 2


def test_fewer_than_five_pairs_have_no_interval() -> None:
    """That of four is their range whatever they are, and no 95% interval."""
    values = {seed: float(seed) for seed in range(5)}
    zeros = dict.fromkeys(values, 0.0)
    five, four = paired(zeros, values), paired(zeros, {seed: values[seed] for seed in range(4)})
    assert four is not None and (four.low, four.high, four.interval) == (None, None, "-")
    assert five is not None and (five.low, five.high) == bootstrap_interval([0.0, 1.0, 2.0, 3.0, 4.0])
    assert re.fullmatch(r"\+\d\.\d\d to \+\d\.\d\d", five.interval)


def test_one_shared_seed_is_no_pair_to_speak_of() -> None:
    assert paired({0: 1.0, 1: 2.0}, {1: 3.0}) is None


def test_holm_multiplies_each_p_by_the_tests_that_are_left_and_never_goes_down() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.4, 0.9]) == pytest.approx([0.8, 0.9]) and holm([0.7, 0.6]) == [1.0, 1.0] and holm([]) == []

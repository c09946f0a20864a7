"""Intervals of values and sets of classes from rows held out: what they promise, and an independent library's figures."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from metaimpute.ensemble.combination import Combination
from metaimpute.ensemble.conformal import Widths, class_sets, quantile


def _values(count: int, seed: int, growing: float = 2.0) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Two members' values, which lie apart where errors are large, and labels."""
    rng = np.random.default_rng(seed)
    value = rng.uniform(0, 3, count)
    scale = 0.1 + growing * rng.uniform(0, 1, count)
    return {"a": value + 0.5 * scale, "b": value - 0.5 * scale}, value + scale * rng.normal(size=count)


EQUAL = Combination(("a", "b"), np.array([0.5, 0.5]), np.ones(2))


def test_the_quantile_is_the_rank_that_gives_the_level() -> None:
    scores = np.arange(1.0, 20)
    assert quantile(scores, 0.9) == 18 and quantile(scores, 0.95) == 19 and quantile(scores, 0.5) == 10
    assert quantile(np.arange(1.0, 10), 0.9) == 9  # nine rows are just enough
    assert quantile(np.arange(1.0, 9), 0.9) == math.inf and quantile(np.zeros(0), 0.5) == math.inf


@pytest.mark.parametrize("growing", [0.0, 2.0])
def test_intervals_of_values_hold_the_level_and_are_wider_where_members_disagree(growing: float) -> None:
    covered, widths = [], []
    for seed in range(60):
        known, labels = _values(60, seed, growing)
        found = Widths.fit(known, EQUAL, labels)
        fresh, truth = _values(400, 1000 + seed, growing)
        half = found(fresh, EQUAL)
        covered.append(np.mean(np.abs((fresh["a"] + fresh["b"]) / 2 - truth) <= half))
        widths.append(half)
    assert 0.88 < np.mean(covered) < 0.94
    half, apart = widths[-1], fresh["a"] - fresh["b"]
    if growing:
        assert np.corrcoef(half, apart)[0, 1] > 0.95  # the errors' scale, which the members' distance is
        assert half.max() > 3 * half.min()


def test_no_interval_is_negative_or_without_bound_far_from_what_was_seen() -> None:
    known, labels = _values(40, 0)
    found = Widths.fit(known, EQUAL, labels)
    far = {"a": np.array([-1e6, 1e6, 0.0]), "b": np.array([-1e6, 1e6, 1e9])}
    half = found(far, EQUAL)
    assert (half > 0).all() and half.max() <= 10 * found.mean * found.factor + 1e-12


def test_members_without_error_and_few_rows_give_intervals_that_are_numbers() -> None:
    exact = np.array([1.0, 2.0, 3.0])
    assert (Widths.fit({"a": exact, "b": exact}, EQUAL, exact)({"a": exact, "b": exact}, EQUAL) == 0).all()
    few = Widths.fit({"a": np.array([1.0]), "b": np.array([1.5])}, EQUAL, np.array([2.0]))
    assert np.isfinite(few({"a": np.array([1.0]), "b": np.array([1.0])}, EQUAL)).all()
    assert few == Widths(**dataclasses.asdict(few))


def test_intervals_are_those_of_mapie() -> None:
    regression = pytest.importorskip("mapie.regression")
    scores = pytest.importorskip("mapie.conformity_scores")
    from sklearn.base import BaseEstimator, RegressorMixin

    known, labels = _values(50, 3)
    fresh, _ = _values(30, 4)
    found = Widths.fit(known, EQUAL, labels)
    once = dataclasses.replace(found, factor=1.0)

    class Given(RegressorMixin, BaseEstimator):
        """Answers with a column of its rows."""

        def __init__(self, place: int = 0) -> None:
            self.place = place

        def fit(self, X: np.ndarray, y: np.ndarray) -> Given:
            self.n_features_in_ = X.shape[1]
            return self

        def predict(self, X: np.ndarray) -> np.ndarray:
            return np.asarray(X[:, self.place])

    def columns(values: dict[str, np.ndarray]) -> np.ndarray:
        return np.stack([(values["a"] + values["b"]) / 2, once(values, EQUAL)], 1)

    X = columns(known)
    score = scores.ResidualNormalisedScore(residual_estimator=Given(1).fit(X, labels), prefit=True, sym=True)
    theirs = regression.SplitConformalRegressor(
        Given(0).fit(X, labels), confidence_level=0.9, conformity_score=score, prefit=True
    ).conformalize(X, labels)
    values, intervals = theirs.predict_interval(columns(fresh))
    np.testing.assert_allclose((intervals[:, 1, 0] - intervals[:, 0, 0]) / 2, found(fresh, EQUAL), rtol=1e-6)


def _classes(count: int, seed: int, shares: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Calibrated probabilities, and labels drawn from them."""
    rng = np.random.default_rng(seed)
    weights = rng.dirichlet(2 * np.array(shares), count)
    return weights, np.array([rng.choice(len(shares), p=row) for row in weights])


def test_sets_hold_the_true_class_at_their_level_also_of_a_class_that_is_rare() -> None:
    shares, hit, rare = (1.0, 1.0, 0.3), [], []
    for seed in range(60):
        held_out, labels = _classes(150, seed, shares)
        fresh, truth = _classes(400, 1000 + seed, shares)
        sets = class_sets(fresh, held_out, labels, 0.9)
        own = sets[np.arange(400), truth]
        hit.append(own.mean())
        rare.append(own[truth == 2].mean())
        assert sets[np.arange(400), fresh.argmax(1)].all()
    assert 0.88 < np.mean(hit) < 0.94 and 0.87 < np.mean(rare) < 0.97


def test_few_labels_give_sets_of_all_classes_and_a_row_never_held_out_counts_against_its_class() -> None:
    held_out, labels = _classes(5, 0, (1.0, 1.0))
    assert class_sets(np.array([[0.99, 0.01]]), held_out, labels, 0.9).all()
    certain = np.tile([1.0, 0.0, 0.0], (30, 1))
    sure = class_sets(certain[:1], certain, np.zeros(30, dtype=int), 0.9)
    assert sure.tolist() == [[True, False, False]]
    unseen = np.where(np.arange(30)[:, None] < 4, np.nan, certain)
    assert class_sets(certain[:1], unseen, np.zeros(30, dtype=int), 0.9)[0, 0]
    assert class_sets(np.array([[0.9, 0.1, 0.0]]), unseen, np.zeros(30, dtype=int), 0.9)[0].all()


def test_sets_are_those_of_mapie() -> None:
    classification = pytest.importorskip("mapie.classification")
    from sklearn.base import BaseEstimator, ClassifierMixin

    held_out, labels = _classes(8 * 3, 5, (1.0, 1.0, 1.0))
    fresh, _ = _classes(50, 6, (1.0, 1.0, 1.0))
    few = np.arange(24)[np.concatenate([np.flatnonzero(labels == number)[:3] for number in range(3)])]

    class Given(ClassifierMixin, BaseEstimator):
        """Answers with its rows."""

        def fit(self, X: np.ndarray, y: np.ndarray) -> Given:
            self.classes_, self.n_features_in_ = np.arange(3), 3
            return self

        def predict(self, X: np.ndarray) -> np.ndarray:
            return np.asarray(X.argmax(1))

        def predict_proba(self, X: np.ndarray) -> np.ndarray:
            return X

    theirs = classification.SplitConformalClassifier(
        Given().fit(held_out, labels), confidence_level=0.8, conformity_score="lac", prefit=True
    ).conformalize(held_out[few], labels[few])
    _, sets = theirs.predict_set(fresh)
    ours = class_sets(fresh, held_out[few], labels[few], 0.8)  # no class has labels enough for itself: one threshold
    expected = sets[:, :, 0].copy()
    expected[np.arange(50), fresh.argmax(1)] = True
    np.testing.assert_array_equal(ours, expected)

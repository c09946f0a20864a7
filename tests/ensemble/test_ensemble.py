"""Members, folds, their combination, and what is said of its error."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import sparse
from sklearn.datasets import load_iris, load_wine, make_blobs, make_moons
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from metaimpute.ensemble.choice import Ensemble, candidates_on, choose, usable
from metaimpute.ensemble.combination import (
    Combination,
    best_alone,
    best_power,
    combine_classes,
    combine_values,
    picking_bias,
    sharpened,
)
from metaimpute.ensemble.folds import folds
from metaimpute.ensemble.intervals import of_rms, of_share
from metaimpute.ensemble.measuring import Candidate, Examples, Unfit
from metaimpute.ensemble.members import Kernel, LogisticRegressionMember, Rows, Spreading, members

FORM = "rows"
CLASSIFIERS = [name for name in members if members.get(name).for_classes]
REGRESSORS = [name for name in members if members.get(name).for_values]


def split(
    X: np.ndarray, y: np.ndarray, count: int, seed: int = 0, classes: int = 0
) -> tuple[Rows, np.ndarray, np.ndarray]:
    """``count`` labelled rows (of each class, if there are classes); the others, and their truth."""
    rng = np.random.default_rng(seed)
    X = StandardScaler().fit_transform(X)
    if classes:
        given = np.concatenate([rng.permutation(np.flatnonzero(y == c))[:count] for c in range(classes)])
    else:
        given = rng.permutation(len(y))[:count]
    rest = np.setdiff1d(np.arange(len(y)), given)
    return Rows(X[given], y[given], X[rest], classes, seed), X[rest], y[rest]


def chosen(rows: Rows, names: list[str] | None = None, more: list[Candidate] | None = None, **options: Any) -> Ensemble:
    """The ensemble of members on one form of the rows."""
    examples = Examples({FORM: rows.labelled}, {FORM: rows.unlabelled}, rows.labels, rows.classes, rows.seed)
    names = usable(rows.classes, len(rows.labels)) if names is None else names
    return choose(examples, [*candidates_on(FORM, names), *(more or [])], **options)


@pytest.fixture(autouse=True)
def few_trees(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metaimpute.ensemble.members.TREES", 50)


# folds ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [2, 3, 5, 10])
def test_every_row_is_held_out_once_in_each_repetition_and_classes_are_spread_evenly(count: int) -> None:
    labels = np.repeat([0, 1, 2], [7, 5, 11])
    seen = np.zeros(len(labels), dtype=int)
    for trained, held in folds(labels, count, 3, seed=4, classes=True):
        assert not set(trained) & set(held) and len(trained) + len(held) == len(labels)
        seen[held] += 1
        for one in range(3):
            part, whole = (labels[held] == one).sum(), (labels == one).sum()
            assert whole // count <= part <= -(-whole // count)
    assert (seen == 3).all()


def test_the_only_row_of_a_class_is_never_held_out() -> None:
    labels = np.array([0, 0, 0, 1, 2, 2])
    held = np.concatenate([held for _, held in folds(labels, 5, 2, seed=0, classes=True)])
    assert sorted(held) == sorted([0, 1, 2, 4, 5] * 2)
    assert list(folds(np.array([0, 1, 2]), 5, 1, 0, classes=True)) == []


def test_folds_of_values_and_of_fewer_rows_than_folds() -> None:
    parts = list(folds(np.array([0.5, 0.1, 0.2]), 5, 1, seed=0, classes=False))
    assert sorted(int(held[0]) for _, held in parts) == [0, 1, 2]
    assert list(folds(np.array([0.5]), 5, 1, seed=0, classes=False)) == []


def test_copies_of_a_row_are_held_out_together() -> None:
    labels = np.repeat([0, 1], 12)
    groups = np.repeat(np.arange(8), 3)
    for trained, held in folds(labels, 4, 2, 0, True, groups):
        assert not set(groups[trained]) & set(groups[held]) and len(trained) + len(held) == 24
    rng = np.random.default_rng(0)
    X, y = np.repeat(rng.normal(size=(20, 3)), 3, axis=0), np.repeat(rng.integers(2, size=20), 3)
    found = chosen(Rows(X, y, rng.normal(size=(30, 3)), 2, 0), ["kernel", "logistic_regression"])
    assert found.expected.error > 0.25, "labels are noise: a copy must not tell the label of the other"


def test_the_only_row_of_a_class_counts_as_wrong() -> None:
    X, y = make_blobs([12, 12, 1], centers=[[0, 0], [9, 9], [-9, 9]], random_state=0)
    found = chosen(Rows(X, y, X, 3, 0), ["kernel"])
    assert found.expected.error == pytest.approx(1 / 25) and np.isnan(found.held_out[y == 2]).all()


# members -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_members_give_probabilities_of_every_class_also_of_one_without_a_row(name: str) -> None:
    X, y = load_iris(return_X_y=True)
    rows, others, truth = split(X, y, 5, classes=3)
    member = members.get(name)()
    member.fit(Rows(rows.labelled, rows.labels, rows.unlabelled, 5, 0))
    found = member.predict(others)
    assert found.shape == (len(others), 5) and (found >= 0).all() and np.isfinite(found).all()
    np.testing.assert_allclose(found.sum(1), 1, atol=1e-9)
    assert (found.argmax(1) == truth).mean() > 0.8
    assert member.predict(others[:0]).shape == (0, 5)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_members_live_with_one_class_and_with_one_row_of_each(name: str) -> None:
    X, y = load_iris(return_X_y=True)
    rows, others, truth = split(X, y, 1, classes=3)
    member = members.get(name)()
    member.fit(rows)
    assert (member.predict(others).argmax(1) == truth).mean() > 0.5
    alone = members.get(name)()
    alone.fit(Rows(rows.labelled[:1], rows.labels[:1], rows.unlabelled, 3, 0))
    assert (alone.predict(others).argmax(1) == rows.labels[0]).all()


@pytest.mark.parametrize("name", REGRESSORS)
def test_regressors_find_a_smooth_function(name: str) -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(400, 2))
    y = np.sin(X[:, 0]) + 0.5 * X[:, 1]
    rows, others, truth = split(X, y, 80)
    member = members.get(name)()
    member.fit(rows)
    left = ((member.predict(others) - truth) ** 2).mean() / truth.var()
    assert member.predict(others).shape == truth.shape and left < 0.25


def test_the_row_space_holds_the_penalised_solution() -> None:
    """More features than rows: solved among the rows, the answer is that of the whole space."""
    rng = np.random.default_rng(1)
    X, y = rng.normal(size=(12, 200)), np.arange(12) % 3
    member = LogisticRegressionMember()
    member.fit(Rows(X, y, X, 3, 0))
    fresh = rng.normal(size=(7, 200))
    whole = LogisticRegression(max_iter=5000, tol=1e-10).fit(X, y).predict_proba(fresh)
    np.testing.assert_allclose(member.predict(fresh), whole, atol=5e-3)
    assert member.basis.shape == (200, 12)


def test_the_kernels_leave_one_out_values_are_those_of_leaving_one_out() -> None:
    rng = np.random.default_rng(2)
    X, y = rng.normal(size=(20, 3)), rng.normal(size=20)
    gram = np.exp(-((X[:, None] - X[None]) ** 2).sum(-1))
    inverse = np.linalg.inv(gram + 0.1 * np.eye(20))
    mean = y.mean()
    closed = y - (inverse @ (y - mean)) / np.diag(inverse)
    for left in range(20):
        others = np.arange(20) != left
        dual = np.linalg.solve(gram[np.ix_(others, others)] + 0.1 * np.eye(19), y[others] - mean)
        assert closed[left] == pytest.approx(gram[left, others] @ dual + mean, rel=1e-9)


def test_the_kernel_answers_a_row_alone_as_among_others() -> None:
    X, y = load_wine(return_X_y=True)
    rows, others, _ = split(X, y, 5, classes=3)
    member = Kernel()
    member.fit(rows)
    whole = member.predict(others)
    np.testing.assert_allclose(
        np.concatenate([member.predict(others[i : i + 1]) for i in range(9)]), whole[:9], rtol=1e-9
    )


def test_label_spreading_uses_unlabelled_rows() -> None:
    X, y = make_moons(400, noise=0.05, random_state=0)
    rows, others, truth = split(X, y, 3, classes=2)
    member, alone = Spreading(), LogisticRegressionMember()
    member.fit(rows)
    alone.fit(rows)
    assert (member.predict(others).argmax(1) == truth).mean() > (alone.predict(others).argmax(1) == truth).mean()


def test_members_are_for_their_kind_and_size() -> None:
    assert "ridge" not in usable(3, 20) and "logistic_regression" not in usable(0, 20)
    assert "kernel" in usable(3, 20) and "kernel" not in usable(3, 5000)
    assert "gaussian_process" in usable(0, 100) and "gaussian_process" not in usable(0, 2000)


# combination ---------------------------------------------------------------------------------------------------------


def test_sharpening_keeps_probabilities_and_the_best_power_undoes_a_distortion() -> None:
    rng = np.random.default_rng(0)
    honest = rng.dirichlet([1, 1, 1], size=4000)
    labels = np.array([rng.choice(3, p=p) for p in honest])
    np.testing.assert_allclose(sharpened(honest, 2.0).sum(1), 1)
    for power in (0.5, 1.0, 2.0):
        assert best_power(sharpened(honest, power), labels) == pytest.approx(1 / power, rel=0.12)
    assert best_power(honest[:2], labels[:2]) == pytest.approx(1.0, rel=0.5), "two rows say little"


def test_a_member_that_is_wrong_loses_its_weight_and_a_few_rows_decide_little() -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(200) % 2
    good = np.where(np.eye(2)[labels] == 1, 0.9, 0.1)
    bad = rng.dirichlet([1, 1], size=200)
    many = combine_classes({"good": good, "bad": bad}, labels)
    few = combine_classes({"good": good[:6], "bad": bad[:6]}, labels[:6])
    assert many.weights[0] > 0.99 > few.weights[0] > 0.5
    prior = combine_classes({"a": good, "b": good}, labels, {"a": 3.0, "b": 1.0})
    np.testing.assert_allclose(prior.weights, [0.75, 0.25])


def test_values_are_averaged_and_a_hopeless_member_is_dropped() -> None:
    labels = np.linspace(0, 1, 30)
    rng = np.random.default_rng(0)
    found = combine_values(
        {"a": labels + rng.normal(0, 0.1, 30), "b": labels + rng.normal(0, 0.1, 30), "c": labels + 9.0}, labels
    )
    assert found.names == ("a", "b") and found.weights.sum() == pytest.approx(1)
    mean = found({"a": np.ones(2), "b": np.ones(2) * 3, "c": np.ones(2) * 1e9})
    assert (mean > 1).all() and (mean < 3).all()


def test_a_regressor_without_error_takes_all_the_weight_and_no_weight_is_lost() -> None:
    zeros, ones = np.zeros(5), np.ones(5)
    assert combine_values({"a": zeros, "b": ones}, zeros).names == ("a",)
    np.testing.assert_allclose(combine_values({"a": zeros, "b": zeros}, zeros).weights, [0.5, 0.5])


def test_many_classes_are_not_flattened() -> None:
    one = np.full((1, 500), 0.1 / 499)
    one[0, 0] = 0.9
    np.testing.assert_allclose(sharpened(one, 1.0), one, rtol=0.01)


def test_a_combination_is_the_weighted_mean() -> None:
    one, other = np.array([[0.8, 0.2]]), np.array([[0.3, 0.7]])
    found = Combination(("a", "b"), np.array([0.25, 0.75]), np.ones(2))({"a": one, "b": other})
    np.testing.assert_allclose(found, 0.25 * one + 0.75 * other)


# choice --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("combine", ["mean", "best"])
def test_a_choice_beats_its_worst_member_and_tells_what_it_did(combine: Any) -> None:
    X, y = load_wine(return_X_y=True)
    rows, others, truth = split(X, y, 6, classes=3)
    told: list[tuple[str, int, int]] = []
    found = chosen(rows, combine=combine, report=lambda *one: told.append(one))
    errors = {name: (member.predict(others).argmax(1) != truth).mean() for name, member in found.fitted.items()}
    right = (found.predict({FORM: others}).argmax(1) == truth).mean()
    assert right >= 1 - max(errors.values()) and right > 0.85
    assert [one.name for one in found.scores] == usable(3, 18)
    assert sum(one.weight for one in found.scores) == pytest.approx(1)
    assert len(found.fitted) == (1 if combine == "best" else len(found.scores))
    assert found.expected.low <= found.expected.error <= found.expected.high
    assert found.held_out.shape == (18, 3) and np.isfinite(found.held_out).all()
    assert {name for name, _, _ in told} == set(usable(3, 18)) and all(done <= of for _, done, of in told)


def test_the_truth_of_a_held_out_row_does_not_reach_its_prediction() -> None:
    """With labels that are noise nothing can be right more often than by chance."""
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(300, 4)), rng.integers(2, size=300)
    rows, _, _ = split(X, y, 60, classes=2)
    found = chosen(rows)
    assert 0.3 < found.expected.error < 0.7
    assert all(0.3 < one.error < 0.7 for one in found.scores)


def test_one_label_of_each_class_is_told_as_unmeasured() -> None:
    X, y = make_blobs(60, centers=3, random_state=0)
    rows, others, truth = split(X, y, 1, classes=3)
    found = chosen(rows)
    assert np.isnan(found.expected.error) and (found.expected.low, found.expected.high) == (0.0, 1.0)
    assert (found.predict({FORM: others}).argmax(1) == truth).mean() > 0.7


def test_a_member_of_ones_own_takes_part() -> None:
    class Oracle:
        def fit(self, rows: Rows) -> None:
            self.classes = rows.classes

        def predict(self, rows: np.ndarray) -> np.ndarray:
            return np.eye(self.classes)[(rows[:, 0] > 0).astype(int)] * 0.98 + 0.01

    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 3))
    rows, others, truth = split(X, (X[:, 0] > 0).astype(int), 20, classes=2)
    found = chosen(rows, ["kernel"], [Candidate("oracle", FORM, Oracle)])
    assert {one.name for one in found.scores} == {"kernel", "oracle"}
    assert found.combination.weights[found.combination.names.index("oracle")] > 0.5


def test_forms_of_the_rows_go_to_their_own_members_and_sparse_ones_to_those_that_take_them() -> None:
    rng = np.random.default_rng(0)
    y = rng.integers(2, size=120)
    telling, noise = y[:, None] + rng.normal(0, 0.2, (120, 1)), rng.normal(size=(120, 4))
    words = sparse.csr_matrix(np.eye(2)[y] * rng.random((120, 1)))
    labelled, others = np.arange(30), np.arange(30, 120)
    forms = {"telling": telling, "noise": noise, "words": words}
    examples = Examples(
        {name: rows[labelled] for name, rows in forms.items()},
        {name: rows[others] for name, rows in forms.items()},
        y[labelled], 2, 0,
    )  # fmt: skip
    assert usable(2, 30, sparse=True) == ["logistic_regression"]
    found = choose(
        examples, [one for name in forms for one in candidates_on(name, ["logistic_regression"], f" on {name}")]
    )
    assert found.forms == {f"logistic_regression on {name}": name for name in forms}
    weights = dict(zip(found.combination.names, found.combination.weights, strict=True))
    assert weights["logistic_regression on noise"] < min(
        weights["logistic_regression on telling"], weights["logistic_regression on words"]
    )
    right = found.predict({name: rows[others] for name, rows in forms.items()}).argmax(1) == y[others]
    assert right.mean() > 0.95


def test_a_candidate_that_cannot_be_fitted_or_comes_too_late_is_left_out_with_its_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Never:
        def fit(self, rows: Rows) -> None:
            raise Unfit("it diverged")

        def predict(self, rows: np.ndarray) -> np.ndarray:
            raise AssertionError

    class Slow:
        """Of which the clock says that a fold takes a tenth of a second."""

        def fit(self, rows: Rows) -> None:
            clock[0] += 0.15

        def predict(self, rows: np.ndarray) -> np.ndarray:
            return np.full((len(rows), 3), 1 / 3)

    clock = [0.0]
    monkeypatch.setattr("metaimpute.ensemble.measuring.time.perf_counter", lambda: clock[0])
    X, y = load_wine(return_X_y=True)
    rows, _, _ = split(X, y, 6, classes=3)
    never = Candidate("never", FORM, Never)
    found = chosen(rows, ["kernel"], [never])
    assert found.left_out == {"never": "it diverged"} and [one.name for one in found.scores] == ["kernel"]
    late = chosen(rows, ["kernel", "extra_trees"], budget=-1.0)
    assert late.left_out == {"extra_trees": "the budget was spent"} and list(late.fitted) == ["kernel"]
    slow = chosen(rows, ["kernel"], [Candidate("slow", FORM, Slow)], budget=0.2)
    assert slow.left_out == {"slow": "the budget was spent after 2 of 10 folds"} and list(slow.fitted) == ["kernel"]
    with pytest.raises(Unfit, match="never: it diverged"):
        chosen(rows, [], [never])


def test_errors_are_measured_on_labels_that_were_not_picked_where_there_are_enough() -> None:
    """Picked rows have wrong labels here, so that every system is wrong on them, and right on the others."""
    X, y = load_wine(return_X_y=True)
    rows, _, _ = split(X, y, 12, classes=3)
    picked = np.arange(len(rows.labels)) % 3 == 0
    labels = np.where(picked, (rows.labels + 1) % 3, rows.labels)

    def error(chosen: np.ndarray | None) -> tuple[float, float]:
        examples = Examples({FORM: rows.labelled}, {FORM: rows.unlabelled}, labels, 3, 0, chosen)
        found = choose(examples, candidates_on(FORM, ["kernel"]))
        return found.expected.error, found.scores[0].error

    every, others = error(None), error(picked)
    assert every[0] > 0.35 and others[0] < every[0] - 0.1 and others[1] < every[1] - 0.1
    count = int((~picked).sum())
    assert others[0] * count == pytest.approx(round(others[0] * count))
    few = np.arange(len(labels)) >= 9  # nine labels are too few to measure on
    assert error(few) == every


# intervals -----------------------------------------------------------------------------------------------------------


def test_intervals_cover_as_often_as_they_say() -> None:
    rng = np.random.default_rng(0)
    for share, count in ((0.1, 40), (0.3, 25), (0.5, 100)):
        wrong = rng.binomial(count, share, size=2000)
        hit = [low <= share <= high for low, high in (of_share(float(w), count) for w in wrong)]
        assert np.mean(hit) > 0.86
    hits = []
    for _ in range(300):
        low, high = of_rms(rng.normal(size=60), draws=200)
        hits.append(low <= 1.0 <= high)
    assert np.mean(hits) > 0.9
    assert of_share(0, 20)[0] == 0 and of_share(20, 20)[1] == 1


def test_the_error_of_a_picked_member_is_corrected_for_the_picking() -> None:
    """Thirty members that guess: the least of their errors looks better than guessing, and is told as guessing."""
    looks, told = [], []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        labels = rng.integers(0, 2, 40)
        found = {str(number): rng.dirichlet((1.0, 1.0), 40) for number in range(30)}
        best = best_alone(found, labels, 2)
        wrong = float((found[best.names[0]].argmax(1) != labels).mean())
        looks.append(wrong)
        told.append(wrong + picking_bias(found, labels, 2, seed))
    assert np.mean(looks) < 0.42 and 0.44 < np.mean(told) < 0.54
    assert picking_bias({"a": found["0"]}, labels, 2) < 0.02  # nothing was picked
    values = {str(number): rng.normal(size=40) for number in range(30)}
    assert picking_bias(values, np.zeros(40), 0) > 0.2


def test_what_is_picked_is_told_with_the_correction() -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(40, 3))
    examples = Examples({"rows": rows}, {"rows": rows}, rng.integers(0, 2, 40), 2, 0)
    names = ["extra_trees", "kernel", "label_spreading", "logistic_regression"]
    found = choose(examples, candidates_on("rows", names), "best")
    (kept,) = found.fitted
    own = next(one for one in found.scores if one.name == kept)
    assert found.expected.error > own.error and found.expected.high > own.high


def test_members_of_no_weight_are_not_kept() -> None:
    labels = np.arange(60) % 2
    right = np.eye(2)[labels] * 0.9 + 0.05
    found = combine_classes({"right": right, "wrong": right[:, ::-1], "other": right}, labels)
    assert found.names == ("right", "other") and found.weights.sum() == pytest.approx(1)
    assert found({"right": right, "other": right}).argmax(1).tolist() == labels.tolist()

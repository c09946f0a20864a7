"""The scikit-learn estimators: scikit-learn's own checks, missing labels of every kind, and what a pipeline needs."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pandas
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_wine, make_moons
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

from metaimpute import MetaImputer, MetaImputerRegressor
from metaimpute.recipes.source import RecipeError

MINUS_ONE = {
    "check_classifiers_classes": "it takes -1 for a class; here -1 is a missing label unless missing_label=None"
}
TOO_SHORT = {"check_classifiers_train": "5 steps fit nothing", "check_regressors_train": "5 steps fit nothing"}


def quick(**options: Any) -> MetaImputer:
    """The network alone."""
    return MetaImputer(
        **({"systems": "network", "problem": "l2i", "steps": 5, "width": 8, "random_state": 0} | options)
    )


def failures(estimator: Any, expected: dict[str, str]) -> list[str]:
    found = check_estimator(estimator, expected_failed_checks=expected, on_fail=None, on_skip=None)
    return [f"{one['check_name']}: {one['exception']}" for one in found if one["status"] == "failed"]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("estimator", "expected"),
    [
        (quick(), TOO_SHORT | MINUS_ONE),
        (quick(missing_label=None), TOO_SHORT),
        (MetaImputerRegressor(systems="network", problem="l2i", steps=5, width=8), TOO_SHORT),
        (quick(systems=["kernel", "logistic_regression", "network"]), MINUS_ONE | TOO_SHORT),
        (MetaImputerRegressor(systems=["kernel", "ridge"]), TOO_SHORT),
    ],
    ids=["classes", "classes, -1 is one", "values", "several systems", "several systems, values"],
)
def test_scikit_learns_checks_pass(estimator: Any, expected: dict[str, str]) -> None:
    assert failures(estimator, expected) == []


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "estimator", [MetaImputer(missing_label=None), MetaImputerRegressor()], ids=["classes", "values"]
)
def test_scikit_learns_checks_of_accuracy_pass_as_well(estimator: Any) -> None:
    assert failures(clone(estimator).set_params(steps=400, random_state=0), {}) == []


@pytest.mark.parametrize("gap", [-1, None, float("nan")])
@pytest.mark.parametrize("kind", ["numbers", "words", "series"])
def test_missing_labels_of_every_kind_are_filled_and_given_ones_kept(kind: str, gap: Any) -> None:
    X, truth = load_wine(return_X_y=True)
    names = np.array(["barolo", "grignolino", "barbera"], dtype=object)
    y = truth.astype(object) if kind == "numbers" else names[truth]
    y[::2] = gap
    given: Any = pandas.Series(y) if kind == "series" else list(y)
    found = quick().fit(X, given)
    assert set(found.transduction_) <= set(found.classes_) and len(found.classes_) == 3
    np.testing.assert_array_equal(found.transduction_[1::2], y[1::2])
    np.testing.assert_allclose(found.label_distributions_.sum(1), 1)
    assert len(found.loss_curve_) == found.n_iter_ == 5


def test_unlabelled_rows_help_on_two_moons() -> None:
    """Six labels, three draws; scikit-learn's own perceptron on them alone is the control."""
    from sklearn.neural_network import MLPClassifier

    gains = []
    for draw in range(3):
        X, truth = make_moons(400, noise=0.1, random_state=draw)
        y = np.full(400, -1)
        for label in (0, 1):
            y[np.random.default_rng(draw).choice(np.flatnonzero(truth == label), 3, replace=False)] = label
        options = {"method": {"weight": 10.0}}
        found = MetaImputer(
            "mean_teacher", "l2i", systems="network", steps=400, width=32, settings=options, random_state=0
        ).fit(X, y)
        alone = MLPClassifier((32, 32), max_iter=2000, random_state=0).fit(X[y >= 0], y[y >= 0])
        gains.append(found.score(X, truth) - alone.score(X, truth))
    assert np.mean(gains) > 0.01, gains


def test_a_seed_decides_everything_and_nothing_outside_is_touched() -> None:
    X, y = load_wine(return_X_y=True)
    before, threads = torch.random.get_rng_state(), torch.get_num_threads()
    one, two, other = quick().fit(X, y), quick().fit(X, y), quick(random_state=1).fit(X, y)
    assert torch.equal(before, torch.random.get_rng_state()) and threads == torch.get_num_threads()
    np.testing.assert_array_equal(one.predict_proba(X), two.predict_proba(X))
    assert not np.allclose(one.predict_proba(X), other.predict_proba(X))


def test_it_lives_in_pipelines_and_pickles() -> None:
    X, y = load_wine(return_X_y=True)
    pipeline = make_pipeline(StandardScaler(), quick(steps=100, width=32))
    assert cross_val_score(pipeline, X, y, cv=3).mean() > 0.8
    fitted = pipeline.fit(X, y)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(fitted)).predict(X), fitted.predict(X))


@pytest.mark.parametrize("method", ["fixmatch", "mixmatch", "vat", "supervised"])
@pytest.mark.parametrize("problem", ["none", "l2i", "l2i_learnable", "holdout_supervision"])
def test_every_method_and_problem_is_to_be_had(method: str, problem: str) -> None:
    X, y = load_wine(return_X_y=True)
    if method == "supervised" and problem != "none":
        problem = "none"
    settings = {"problem": {"schedule": "algorithm1"}} if problem != "none" else None
    assert quick(method=method, problem=problem, settings=settings).fit(X, y).predict(X).shape == (178,)


def test_values_come_in_their_own_units() -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(300, 3))
    truth = 1000 + 50 * X[:, 0] - 20 * X[:, 1]
    y = truth.copy()
    y[60:] = np.nan
    found = MetaImputerRegressor("mean_teacher", "l2i", systems="network", steps=300, random_state=0).fit(X, y)
    np.testing.assert_array_equal(found.transduction_[:60], y[:60])
    assert found.score(X[60:], truth[60:]) > 0.9
    assert found.predict(X).shape == (300,) and abs(found.predict(X).mean() - 1000) < 20


@pytest.mark.parametrize(
    ("y", "said"),
    [
        ([-1] * 178, "y holds no label"),
        ([2] * 100 + [None] * 78, r"y holds one class only \(2\)"),
        ([0.5, 1.5] * 89, "Unknown label type"),
    ],
)
def test_labels_that_teach_nothing_are_refused(y: list[Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        quick().fit(load_wine(return_X_y=True)[0], y)


@pytest.mark.parametrize("section", ["methd", "task", "about"])
def test_settings_of_no_section_are_refused(section: str) -> None:
    X, y = load_wine(return_X_y=True)
    with pytest.raises(RecipeError, match=rf"MetaImputer: settings\.{section}: unknown key; "):
        quick(settings={section: {"weight": 1.0}}).fit(X, y)


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_columns_of_any_size_are_standardised_without_overflow() -> None:
    X, y = load_wine(return_X_y=True)
    small = quick().fit(X, y)
    large = quick().fit(X / X.max() * 1.7e308, y)
    np.testing.assert_allclose(large.label_distributions_, small.label_distributions_, atol=1e-5)
    X[0, 0], X[1, 1], X[2, 1] = 1e300, -1.7e308, 1.7e308
    assert np.isfinite(quick().fit(X, y).label_distributions_).all()


def test_a_number_too_far_from_training_is_refused_by_its_place() -> None:
    X, y = load_wine(return_X_y=True)
    found = quick().fit(X, y)
    X[4, 3] = 1e300
    with pytest.raises(
        ValueError, match=r"X\[4, 3\] is 1e\+300, more than 1e\+30 standard deviations .*nothing can be predicted"
    ):
        found.predict(X)
    values = MetaImputerRegressor(steps=5, width=8)
    for largest, said in (
        (1e300, "y contains 1e.300, more than can be computed with"),
        (10**400, "y contains infinity"),
    ):
        with pytest.raises(ValueError, match=said):
            values.fit(X[:4], [1.0, None, largest, 2.0])


@pytest.mark.parametrize("data", [pandas.DataFrame({"a": ["x", "y", "z"]}), ["one text", "two", "three"]])
def test_words_are_refused_with_the_call_that_takes_them(data: Any) -> None:
    with pytest.raises(ValueError, match=r"could not convert string .*; metaimpute.impute\(data, labels\) takes words"):
        quick().fit(data, ["p", "q", None])


def test_settings_are_a_recipes_and_mistakes_are_named() -> None:
    X, y = load_wine(return_X_y=True)
    settings = {"train": {"clip_norm": 1.0}, "method": {"decay": 0.9}}
    assert quick(method="mean_teacher", settings=settings).fit(X, y).n_iter_ == 5
    with pytest.raises(RecipeError, match=r"MetaImputer: method\.decays: .*did you mean 'decay'"):
        quick(method="mean_teacher", settings={"method": {"decays": 0.9}}).fit(X, y)
    with pytest.raises(RecipeError, match="unknown method 'fixmach'; did you mean 'fixmatch'"):
        quick(method="fixmach").fit(X, y)
    with pytest.raises(FloatingPointError, match=r"training diverged: .*lower learning_rate"):
        quick(learning_rate=1e30, steps=20, problem="none").fit(X, y)


# several systems -----------------------------------------------------------------------------------------------------


def partly(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    X, truth = load_wine(return_X_y=True)
    y = truth.copy()
    y[np.random.default_rng(seed).permutation(len(y))[count:]] = -1
    return X, y, truth


def test_systems_are_combined_and_what_is_to_be_expected_is_told() -> None:
    X, y, truth = partly(24)
    found = MetaImputer(steps=60, width=32, random_state=0).fit(X, y)
    hidden = y == -1
    wrong = (found.transduction_ != truth)[hidden].mean()
    assert wrong < 0.12
    assert found.expected_.low <= wrong <= found.expected_.high
    assert {one.name for one in found.candidates_} == {
        "extra_trees", "kernel", "label_spreading", "logistic_regression", "network", "random_forest", "self_training"
    }  # fmt: skip
    assert sum(one.weight for one in found.candidates_) == pytest.approx(1)
    np.testing.assert_allclose(found.label_distributions_.sum(1), 1)
    np.testing.assert_array_equal(found.transduction_[~hidden], truth[~hidden])
    np.testing.assert_allclose(found.predict_proba(X), found.label_distributions_, atol=1e-12)
    again = MetaImputer(steps=60, width=32, random_state=0).fit(X, y)
    np.testing.assert_array_equal(again.label_distributions_, found.label_distributions_)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(found)).predict(X), found.predict(X))


def test_one_system_may_be_picked_or_named() -> None:
    X, y, _ = partly(24)
    best = MetaImputer(systems=["extra_trees", "logistic_regression"], combine="best", random_state=0).fit(X, y)
    assert sorted(one.weight for one in best.candidates_) == [0.0, 1.0]
    alone = MetaImputer(systems="kernel").fit(X, y)
    assert [one.name for one in alone.candidates_] == ["kernel"] and not hasattr(alone, "module_")
    network = quick().fit(X, y)
    assert network.candidates_ == () and network.expected_ is None and network.module_ is not None


def test_values_are_combined_in_their_own_units() -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 3))
    truth = 1000 + 50 * np.sin(X[:, 0]) - 20 * X[:, 1]
    y = np.where(np.arange(200) < 50, truth, np.nan)
    found = MetaImputerRegressor(systems=["gaussian_process", "kernel", "ridge"], random_state=0).fit(X, y)
    assert found.score(X[50:], truth[50:]) > 0.8
    wrong = float(np.sqrt(((found.transduction_ - truth)[50:] ** 2).mean()))
    assert found.expected_.error == pytest.approx(wrong, rel=0.7) and found.expected_.error > 1, "in units of y"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"systems": "kernell"}, "systems: 'kernell' is no system; there are extra_trees, "),
        ({"systems": ["ridge"]}, "systems: 'ridge' does not fit these labels; there are"),
        ({"systems": []}, "systems is empty"),
        ({"systems": "kernel", "combine": "median"}, "combine is 'mean' or 'best', not 'median'"),
    ],
)
def test_systems_that_there_are_not_are_named(options: dict[str, Any], said: str) -> None:
    X, y, _ = partly(24)
    with pytest.raises(ValueError, match=said):
        MetaImputer(**options).fit(X, y)

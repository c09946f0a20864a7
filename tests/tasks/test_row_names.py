"""Columns that name or number rows are known as such: refused where they name two alike, and never learnt from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas
import pytest

from metaimpute.tasks import OwnTable, OwnText, TaskError
from metaimpute.tasks.row_names import numbers_rows

from .. import fake_data

RNG = np.random.default_rng(0)


def table(folder: Path, name: str, cells: list[object]) -> Path:
    rows = [
        {name: cell, "x": i * 7 % 13 / 3, "text": f"a text {i}", "label": "uv"[i % 2] if i < len(cells) // 2 else ""}
        for i, cell in enumerate(cells)
    ]
    return fake_data.write_csv(folder / "t.csv", rows)


@pytest.mark.parametrize(
    ("at", "cell", "said"),
    [(9, "r4", r"'r4' stands in lines 6 and 11 of t\.csv"), (9, "", r"line 11 of t\.csv has none"),
     (9, " ", r"line 11 of t\.csv has none"), (9, "NA", r"line 11 of t\.csv has 'NA', a word for none")],
)  # fmt: skip
def test_a_column_that_does_not_name_the_rows_is_refused_by_line(at: int, cell: str, said: str, tmp_path: Path) -> None:
    cells: list[object] = [f"r{i}" for i in range(40)]
    cells[at] = cell
    path = str(table(tmp_path, "name", cells))
    for task in (OwnTable(file=path, target="label", id="name"), OwnText(file=path, id="name")):
        with pytest.raises(TaskError, match=rf"^id: column 'name' does not name the rows: {said}"):
            task.check()
    with pytest.raises(TaskError, match=r"^id: .* line 11 of t\.csv has none"):
        cells[at] = "?"
        OwnText(file=str(table(tmp_path, "name", cells)), id="name", missing_values=["?"]).check()


@pytest.mark.parametrize("name", ["id", "ID", "uuid"])
@pytest.mark.parametrize("kind", ["words", "numbers"])
def test_a_column_called_id_is_no_input_even_if_it_is_no_good_one(kind: str, name: str, tmp_path: Path) -> None:
    cells: list[object] = [f"r{i}" if kind == "words" else 7 * i % 50 for i in range(60)]
    cells[5] = cells[6]
    task = OwnTable(file=str(table(tmp_path, name, cells)), target="label", ignore=["text"])
    said = f"left out column '{name}': it is called as names of rows are; name it as id, or keep: [\"{name}\"] to learn from it"
    assert said in task.load(0).warnings and task.columns == ("x",)
    kept = OwnTable(file=str(table(tmp_path, name, cells)), target="label", ignore=["text"], keep=[name])
    kept.load(0)
    assert set(kept.columns) == {name, "x"}


SHUFFLED = RNG.permutation(60)
FILTERED = np.sort(RNG.choice(240, 60, replace=False))
NUMBERINGS = {
    "from 0": np.arange(60), "from 1, backwards": np.arange(60, 0, -1), "shuffled": SHUFFLED, "filtered": FILTERED,
    "shuffled and filtered": RNG.permutation(FILTERED), "as decimals": SHUFFLED + 0.0, "from 1000": 1000 + SHUFFLED,
    "two files": np.concatenate([np.arange(30), np.arange(30)]), "beyond 2^63": [2**63 + int(i) for i in SHUFFLED],
}  # fmt: skip


@pytest.mark.parametrize("kind", NUMBERINGS)
def test_numbers_of_rows_are_no_input_after_a_shuffle_or_a_filter(kind: str, tmp_path: Path) -> None:
    path = str(table(tmp_path, "nr", list(NUMBERINGS[kind])))
    found = OwnTable(file=path, target="label", ignore=["text"])
    said = [line for line in found.load(0).warnings if "'nr'" in line]
    assert found.columns == ("x",) and len(said) == 1
    assert "it numbers the rows" in said[0] or "beyond 16 digits" in said[0]
    kept = OwnTable(file=path, target="label", ignore=["text"], keep=["nr"])
    assert not any("'nr'" in line for line in kept.load(0).warnings) and "nr" in kept.columns


def test_a_saved_index_is_known_by_its_name_in_the_smallest_table() -> None:
    few = pandas.Series([812, 3, 4071, 77])
    assert all(numbers_rows(few, name) for name in ("Unnamed: 0", "", "index"))
    assert not numbers_rows(few, "income")
    again = pandas.Series(np.random.default_rng(2).integers(0, 50, 50))
    assert numbers_rows(again, "Unnamed: 0.1") and not numbers_rows(again, "age"), "rows drawn with replacement"


def test_measurements_do_not_number_rows() -> None:
    pytest.importorskip("sklearn")
    from sklearn import datasets

    frames = [
        load(as_frame=True).frame for load in (datasets.load_iris, datasets.load_wine, datasets.load_breast_cancer)
    ]
    frames += [datasets.load_diabetes(as_frame=True, scaled=False).frame, datasets.load_linnerud(as_frame=True).frame]
    assert not [name for frame in frames for name in frame if numbers_rows(frame[name], str(name))]
    rng = np.random.default_rng(1)
    drawn = [(n, size) for n in (12, 40, 100, 500) for size in (20, 100, 1000, 10**4, 10**6) for _ in range(20)]
    taken = [numbers_rows(pandas.Series(rng.integers(0, size, n)), "x") for n, size in drawn]
    assert sum(taken) <= 0.01 * len(drawn)
    assert not numbers_rows(pandas.Series(np.tile(np.arange(6), 20)), "visit")
    assert not numbers_rows(pandas.Series([True, False] * 20), "flag")
    assert not numbers_rows(pandas.Series(rng.integers(-(2**63), 2**63 - 1, 60)), "far apart")


def test_new_rows_are_named_as_far_as_they_can_be_and_the_rest_is_said(tmp_path: Path) -> None:
    path = table(tmp_path, "name", [f"r{i}" for i in range(40)])
    task = OwnTable(file=str(path), target="label", id="name", ignore=["text"])
    task.load(0)
    new = tmp_path / "new.csv"
    new.write_text("name,x\na,1\na,2\n")
    assert task.read(new)[0] == ["a", "a"]
    assert task.read_warnings == ["column 'name' does not name every row: 'a' stands in lines 2 and 3 of new.csv"]
    new.write_text("x\n1\n2\n")
    assert task.read(new)[0] == ["0", "1"]
    assert task.read_warnings == ["new.csv has no column 'name': its rows are numbered from 0"]
    texts = OwnText(file=str(path), id="name")
    new.write_text("text\none\n")
    assert texts.read(new) == (["0"], ["one"])
    assert texts.read_warnings == ["new.csv has no column 'name': its rows are numbered from 0"]

"""Columns of many words as inputs by their spelling: which they are, what they become, and that a run reads new ones alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import torch

from metaimpute.tasks.base import TaskError
from metaimpute.tasks.own_table import OwnTable
from metaimpute.tasks.spelled_inputs import SPREAD, many_words, spelling
from metaimpute.tasks.table_inputs import TableInputs, sort_columns

LETTERS = np.array(list("abcdefghij"))


def names(count: int, seed: int = 0) -> list[str]:
    """Different words of ten letters, half of which end in one way and half in another."""
    rng = np.random.default_rng(seed)
    stems = ["".join(rng.choice(LETTERS, 6)) for _ in range(count)]
    return [stem + ("burg" if at % 2 else "ston") for at, stem in enumerate(stems)]


def table(rows: int = 120, seed: int = 0) -> pandas.DataFrame:
    towns = names(40)
    rng = np.random.default_rng(seed)
    at = rng.integers(40, size=rows)
    return pandas.DataFrame(
        {
            "size": rng.normal(size=rows).round(3),
            "town": [towns[i] for i in at],
            "remark": [f"seen {i} on {word}" for i, word in zip(rng.permutation(rows), names(rows, 7), strict=True)],
            "colour": rng.choice(["red", "blue"], rows),
            "kind": np.where(at % 2, "new", "old"),
        }
    )


@pytest.mark.parametrize(
    ("words", "many"),
    [
        ([str(i) for i in range(30)], False),
        ([str(i) for i in range(31)], False),  # all but two have an input each
        ([str(i) for i in range(40)], True),
        (["x"] * 400 + [str(i) for i in range(60)], False),  # most rows hold a frequent word
        (["x"] * 200 + [str(i) for i in range(60)], True),
    ],
)
def test_a_column_is_spelled_where_its_frequent_words_leave_out_a_tenth_of_the_rows(
    words: list[str], many: bool
) -> None:
    assert many_words(words) is many


def test_words_that_are_spelled_alike_lie_near_each_other() -> None:
    words = names(200)
    part, weight = spelling(words)
    rows = weight * part.transform([*words, "", "zugburg", "zugston"])
    assert rows[:200].var(0).sum() == pytest.approx(SPREAD**2)
    assert (rows[200] == 0).all()
    burg, ston = (rows[start:200:2].mean(0) for start in (1, 0))
    for new, near, far in ((rows[201], burg, ston), (rows[202], ston, burg)):
        assert np.linalg.norm(new - near) < 0.8 * np.linalg.norm(new - far)


def test_few_rows_and_accents_do() -> None:
    part, weight = spelling(["café", "cafe", "x", ""] * 2)
    rows = weight * part.transform(["café", "cafe"])
    np.testing.assert_allclose(rows[0], rows[1], atol=1e-12)
    part, weight = spelling(["same", "Same", "sáme"])
    assert np.abs(weight * part.transform(["same", "other"])).max() < 20


def test_the_network_sees_what_it_saw_and_others_the_spelling_instead() -> None:
    frame = table()
    numbers, categories, dates, texts, left = sort_columns(frame, frame.columns[:-1])
    assert (numbers, categories, dates, texts, left) == (["size"], ["town", "colour"], [], ["remark"], [])
    without = TableInputs.fit(frame.assign(town="same"), numbers, ["colour"])
    inputs = TableInputs.fit(frame, numbers, categories, dates, texts)
    assert inputs.spelled == ("town", "remark") and inputs.texts == ("remark",)
    rows = inputs(frame)
    plain, spelled = inputs.plain(rows), inputs.by_spelling(rows)
    assert plain.shape[1] == inputs.width == 1 + 30 + 2 == len(inputs.column_of) == len(inputs.measured)
    assert spelled.shape[1] == without.width + 60
    kept = torch.cat([plain[:, :1], plain[:, -2:]], 1)
    assert torch.equal(spelled[:, :3], kept) and torch.equal(kept, without(frame))
    np.testing.assert_allclose(spelled[:, 3:33].var(0, correction=0).sum(), SPREAD**2, rtol=1e-5)


def test_words_of_texts_alone_are_no_category_and_codes_are_left_out() -> None:
    frame = table()
    frame["code"] = [f"A-{i:05d}" for i in range(len(frame))]
    *_, texts, left = sort_columns(frame, [*frame.columns[:-2].tolist(), "code"])
    assert texts == ["remark"] and left == [
        "left out column 'code': its words differ in every row, as those of an id do"
    ]
    kept = sort_columns(frame, ["remark"], keep=["remark"])
    assert kept[1] == ["remark"] and kept[3] == []


def own_table(folder: Path, **options: Any) -> OwnTable:
    frame = table()
    frame.loc[30:, "kind"] = ""
    frame.to_csv(folder / "rows.csv", index=False)
    task = OwnTable(file=str(folder / "rows.csv"), target="kind", **options)
    task.check()
    return task


def test_a_run_reads_new_words_as_it_read_those_of_training(tmp_path: Path) -> None:
    task = own_table(tmp_path)
    assert task.more_forms == ("spelling",)  # before it is loaded
    data = task.load(0)
    assert task.more_forms == ("spelling",) and task.columns == ("size", "town", "colour", "remark")
    raw = torch.as_tensor(data.unlabelled.inputs)
    assert task.view(raw, "none", torch.Generator()).shape[1] == task.input_shape[0] < raw.shape[1]
    for kind in ("weak", "strong"):
        assert task.view(raw, kind, torch.Generator()).shape[1] == task.input_shape[0]
    (tmp_path / "kept").mkdir()
    task.save(tmp_path / "kept")
    again = OwnTable(file="gone.csv", target="kind")
    again.restore(tmp_path / "kept")
    new = table(rows=8, seed=3).assign(town="newburg")
    new.to_csv(tmp_path / "new.csv", index=False)
    rows, same = task.read(tmp_path / "new.csv")[1], again.read(tmp_path / "new.csv")[1]
    assert torch.equal(rows, same) and torch.equal(task.in_form(rows, "spelling"), again.in_form(same, "spelling"))
    assert not any("remark" in line or "town" not in line for line in again.read_warnings)
    new.drop(columns="remark").to_csv(tmp_path / "less.csv", index=False)
    with pytest.raises(TaskError, match="remark"):
        again.read(tmp_path / "less.csv")


def test_no_word_of_a_text_is_kept(tmp_path: Path) -> None:
    task = own_table(tmp_path)
    task.load(0)
    (tmp_path / "kept").mkdir()
    task.save(tmp_path / "kept")
    import zipfile

    with zipfile.ZipFile(tmp_path / "kept" / "inputs.skops") as kept:
        content = b"".join(kept.read(name) for name in kept.namelist())
    assert names(40)[0].encode() in content  # a frequent town has an input of its own
    assert not any(word.encode() in content for word in names(120, 7))


def test_preprocessing_that_spells_nothing_is_damaged(tmp_path: Path) -> None:
    task = own_table(tmp_path)
    task.load(0)
    (tmp_path / "kept").mkdir()
    task.save(tmp_path / "kept")
    path = tmp_path / "kept" / "task.json"
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace('"spelled"', '"spelt"'), encoding="utf-8")
    with pytest.raises(TaskError):
        OwnTable(file="gone.csv", target="kind").restore(tmp_path / "kept")


def test_a_table_without_many_words_has_one_form(tmp_path: Path) -> None:
    task = own_table(tmp_path, ignore=["town", "remark"])
    data = task.load(0)
    assert task.more_forms == () and torch.as_tensor(data.labelled.inputs).shape[1] == task.input_shape[0] == 3

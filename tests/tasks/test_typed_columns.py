"""Columns of Parquet whose type is not what they are used as: numbers that are text, and lists, records and bytes."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from metaimpute.tasks.base import TaskError
from metaimpute.tasks.doubts import Doubt
from metaimpute.tasks.own_table import OwnTable
from metaimpute.tasks.own_text import OwnText

pandas = pytest.importorskip("pandas")
pytest.importorskip("pyarrow")

COUNT = 60
LABELS = ["xy"[i % 2] if i < 30 else None for i in range(COUNT)]


def parquet(folder: Path, **columns: Any) -> str:
    path = folder / "t.parquet"
    pandas.DataFrame({"size": np.arange(COUNT) % 7 + 0.5, **columns, "target": LABELS}).to_parquet(path)
    return str(path)


def inputs(task: OwnTable) -> tuple[list[str], list[str]]:
    task.load(0)
    assert task._inputs is not None
    return list(task._inputs.numbers), list(task._inputs.categories)


def test_numbers_that_a_file_has_as_words_are_numbers_where_the_user_says_so(tmp_path: Path) -> None:
    written = [f"{i % 11 * 1.25}" for i in range(COUNT)]
    money = [f"${i * 7 % 13 + 1000:,}" for i in range(COUNT)]
    path = parquet(tmp_path, written=written, money=money)
    assert inputs(OwnTable(file=path))[0] == ["size"]
    task = OwnTable(file=path, numbers=["written", "money"])
    assert inputs(task) == (["size", "written", "money"], [])
    assert task._rows().frame["written"].tolist() == [i % 11 * 1.25 for i in range(COUNT)]
    assert task._rows().frame["money"].tolist() == [i * 7 % 13 + 1000.0 for i in range(COUNT)]
    assert any("read '$1,000' as 1000" in line for line in task.load(0).warnings)
    assert task.read(Path(path))[1].shape == (COUNT, *task.input_shape)


def test_a_column_called_one_of_numbers_is_one_or_the_user_is_asked(tmp_path: Path) -> None:
    some = [f"{i % 11}" if i != 7 else "?" for i in range(COUNT)]
    path = parquet(tmp_path, some=some, none=["word"] * COUNT)
    with pytest.raises(Doubt, match=r"column 'some': 1 of 60 cells are no number.*row 7.*missing_values") as caught:
        OwnTable(file=path, numbers=["some"]).load(0)
    assert "words:" not in str(caught.value)
    assert inputs(OwnTable(file=path, numbers=["some"], missing_values={"some": ["?"]}))[0] == ["size", "some"]
    with pytest.raises(TaskError, match="^numbers: no cell of column 'none' is a number: 'word'"):
        OwnTable(file=path, numbers=["none"]).load(0)
    with pytest.raises(TaskError, match="^numbers: column 'some' is in words too"):
        OwnTable(file=path, numbers=["some"], words=["some"]).load(0)
    with pytest.raises(TaskError, match="^numbers: t.parquet has no column 'sime'; did you mean 'some'"):
        OwnTable(file=path, numbers=["sime"]).load(0)


def test_the_same_of_csv(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    lines = [f"{i % 7},{'?' if i in (3, 4) else i % 11},{LABELS[i] or ''}" for i in range(COUNT)]
    path.write_text("\n".join(["size,some,target", *lines]) + "\n")
    with pytest.raises(Doubt, match="column 'some': 2 of 60 cells are no number"):
        OwnTable(file=str(path), numbers=["some"]).load(0)
    assert inputs(OwnTable(file=str(path), numbers=["some"], missing_values=["?"]))[0] == ["size", "some"]


def test_columns_of_lists_records_and_bytes_are_named_together_and_can_be_left_out(tmp_path: Path) -> None:
    nested = {"li": [[1.0, 2.0]] * COUNT, "re": [{"k": 1}] * COUNT, "by": [b"\x00\xff"] * COUNT}
    path = parquet(tmp_path, **nested)
    with pytest.raises(TaskError) as caught:
        OwnTable(file=path).load(0)
    said = str(caught.value)
    assert all(f"'{name}'" in said for name in nested) and 'ignore: ["li", "re", "by"]' in said and "\n" not in said
    assert inputs(OwnTable(file=path, ignore=list(nested))) == (["size"], [])


def test_beside_texts_such_columns_do_not_matter_and_as_texts_they_are_refused(tmp_path: Path) -> None:
    texts = [f"a text number {i}" for i in range(COUNT)]
    path = parquet(tmp_path, text=texts, li=[[1, 2]] * COUNT)
    assert len(OwnText(file=path, label="target").load(0).unlabelled) >= 30
    with pytest.raises(TaskError, match="neither numbers nor words: 'li'"):
        OwnText(file=path, text="li", label="target").load(0)


def test_durations_are_seconds(tmp_path: Path) -> None:
    lasts = (
        pandas.to_timedelta((np.arange(COUNT) * 7 % 13) * 90, unit="s")
        .to_series(index=range(COUNT))
        .mask(np.arange(COUNT) == 4)
    )
    task = OwnTable(file=parquet(tmp_path, lasts=lasts))
    assert inputs(task) == (["size", "lasts"], [])
    assert task._rows().frame["lasts"].iloc[:3].tolist() == [0.0, 630.0, 90.0]


def test_a_data_frame_is_read_as_parquet_is() -> None:
    import metaimpute
    from metaimpute.in_memory.data import data_of

    frame = pandas.DataFrame({"lasts": pandas.to_timedelta([1, 2], unit="min"), "a": [1, 2]})
    assert data_of(frame).rows["lasts"].tolist() == [60.0, 120.0]
    arrow = pandas.Series([1, 2]).astype("duration[s][pyarrow]")
    assert data_of(frame.assign(lasts=arrow)).rows["lasts"].tolist() == [1.0, 2.0]
    cells = pandas.Series([timedelta(minutes=1), None], dtype=object)
    assert data_of(frame.assign(lasts=cells)).rows["lasts"].tolist()[:1] == [60.0]
    assert data_of(
        pandas.DataFrame({"w": ["a", None], "d": pandas.to_datetime(["2020", None]), "t": [True, None]})
    ).rows.shape == (2, 3)
    pairs = frame.assign(odd=pandas.Categorical([(1, 2), (3, 4)]))
    with pytest.raises(ValueError, match=r"a column holds neither numbers nor words: 'odd' \(tuple\)"):
        data_of(pairs)
    with pytest.raises(ValueError, match=r"'0' \(list\).*data\.drop\(columns=\[0\]\)"):
        data_of(pandas.DataFrame({0: [[1], [2]], "a": [1, 2]}))
    for held in ([1, 2], {"k": 1}, b"\xff", {1, 2}, np.zeros(2)):
        odd = frame.assign(odd=[None, held], more=[held, None])
        kind = type(held).__name__
        said = rf"columns hold neither numbers nor words: 'odd' \({kind}\), 'more' \({kind}\); .*drop\(columns=\['odd', 'more'\]\)"
        with pytest.raises(ValueError, match=said):
            metaimpute.impute(odd, ["x", None])


def test_an_index_without_a_name_may_hold_bytes(tmp_path: Path) -> None:
    from metaimpute.tasks.files import read_table

    pandas.DataFrame({"a": [1, 2]}, index=[b"x", b"y"]).to_parquet(tmp_path / "t.parquet")
    assert read_table(tmp_path / "t.parquet").frame["a"].tolist() == [1, 2]

"""One's own texts: a table with blanks among its labels is a task."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from metaimpute.tasks import Digits, IMDb, MissingData, OwnText, TaskError

from .. import fake_data


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("METAIMPUTE_DATA", str(tmp_path))
    return fake_data.make_own_text(tmp_path)


def bound(**options: object) -> OwnText:
    task = OwnText(**options)  # type: ignore[arg-type]
    task.prepare_inputs = lambda texts: texts
    return task


def test_a_blank_label_is_a_text_without_one(file: Path) -> None:
    task = bound(file=str(file), id="id")
    data = task.load(0)
    assert task.label_names == ["bad", "good"]
    assert (len(data.labelled), len(data.unlabelled), len(data.test)) == (13, 40, 3)
    for text, target in zip(data.labelled.inputs, data.labelled.targets.tolist(), strict=True):
        assert task.label_names[target] in text.split()
    assert task.row_names(data.unlabelled)[:2] == ["t16", "t17"]
    assert bound(file=str(file)).load(0).unlabelled.ids[0] == 16
    texts = data.unlabelled.take(torch.arange(4))
    assert task.view(texts, "none", torch.Generator()) == texts != task.view(texts, "strong", torch.Generator())
    assert len(task.distinct_inputs(data, unlabelled=True) or []) == 3 * 53


def test_labels_are_kept_as_written_and_numbers_come_in_order(tmp_path: Path) -> None:
    rows = [{"text": f"text number {i}", "label": ("02", "10", "3")[i % 3] if i < 12 else " "} for i in range(30)]
    path = fake_data.write_csv(tmp_path / "a.csv", rows)
    task = OwnText(file=str(path))
    assert task.label_names == ["02", "3", "10"]
    path.write_text("text;label\na b;x\nc d;y\ne f;\n", encoding="utf-8-sig")
    assert OwnText(file=str(path)).label_names == ["x", "y"], "semicolons, and a mark at the start of the file"


def test_fewer_labels_leave_their_truth_to_the_diagnostics(file: Path) -> None:
    data = bound(file=str(file), labels=4).load(1)
    assert torch.bincount(data.labelled.targets).tolist() == [2, 2]
    assert len(data.unlabelled) == 49 and int((data.unlabelled.targets >= 0).sum()) == 9


def test_a_test_file_is_used_and_its_leaks_are_said(file: Path, tmp_path: Path) -> None:
    lines = file.read_text().splitlines()
    test = tmp_path / "test.csv"
    test.write_text("\n".join([*lines[:3], "z,all bad,bad"]) + "\n")
    task = bound(file=str(file), test="test.csv", id="id")
    data = task.load(0)
    assert len(data.labelled) == 16 and task.row_names(data.test) == ["t0", "t1", "z"]
    assert "2 of 3 test texts also occur in the training data, which flatters the result: t0, t1" in data.warnings
    test.write_text("\n".join([*lines[:2], lines[-1]]) + "\n")
    with pytest.raises(TaskError, match="test: 1 row of test.csv without a label"):
        bound(file=str(file), test="test.csv").load(0)


def test_mistakes_name_the_option_and_the_nearest_column(file: Path, tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="^label: my_texts.csv has no column 'lable'; did you mean 'label'?"):
        OwnText(file=str(file), label="lable").check()
    with pytest.raises(TaskError, match="^text: .* no column 'txt'; did you mean 'text'?"):
        OwnText(file=str(file), text="txt").check()
    with pytest.raises(TaskError, match="^id: "):
        OwnText(file=str(file), id="key").check()
    with pytest.raises(TaskError, match="^crop: "):
        OwnText(file=str(file), crop=0).check()
    with pytest.raises(TaskError, match="^file: name"):
        OwnText().check()
    with pytest.raises(MissingData, match=r"file nowhere\.csv not found"):
        OwnText(file="nowhere.csv").load(0)
    (tmp_path / "one.csv").write_text("text,label\na,x\nb,x\nc,\n")
    with pytest.raises(TaskError, match="label: there is only the class 'x'"):
        OwnText(file=str(tmp_path / "one.csv")).check()
    (tmp_path / "one.csv").write_text("text,label\na,\nb,\n")
    with pytest.raises(TaskError, match="label: there are no labels"):
        OwnText(file=str(tmp_path / "one.csv")).check()
    for content in (b"", b"\xff\xfe\x00text", b'text,label\n"a,b\n'):
        (tmp_path / "bad.csv").write_bytes(content)
        with pytest.raises(TaskError, match=r"bad\.csv"):
            OwnText(file=str(tmp_path / "bad.csv")).check()


def test_every_row_labelled_leaves_nothing_to_impute(tmp_path: Path) -> None:
    rows = [{"text": f"text number {i}", "label": "xy"[i % 2]} for i in range(20)]
    path = fake_data.write_csv(tmp_path / "a.csv", rows)
    with pytest.raises(TaskError, match="every example has a label"):
        bound(file=str(path)).load(0)
    assert len(bound(file=str(path), unlabelled_includes_labelled=True).load(0).unlabelled) == 16


def test_new_texts_are_read_from_tables_and_lines(file: Path, tmp_path: Path) -> None:
    task = OwnText(file=str(file), id="id")
    names, texts = task.read(file)
    assert names[:2] == ["t0", "t1"] and len(texts) == 56
    lines = tmp_path / "new.txt"
    lines.write_text("one text\nanother\n")
    assert task.read(lines) == (["0", "1"], ["one text", "another"]) == IMDb().read(lines)
    plain = fake_data.write_csv(tmp_path / "plain.csv", [{"text": "one text"}, {"text": "None"}])
    assert task.read(plain) == (["0", "1"], ["one text", "None"])
    with pytest.raises(TaskError, match="no reader for one's own files"):
        Digits().read(lines)
    with pytest.raises(TaskError, match="cannot be read as text"):
        task.read(tmp_path)


def test_parquet_is_read_where_pyarrow_is(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pandas = pytest.importorskip("pandas")
    path = tmp_path / "t.parquet"
    path.write_bytes(b"PAR1 but not really")

    def absent(*_: object) -> None:
        raise ImportError("no engine")

    with monkeypatch.context() as patch:
        patch.setattr(pandas, "read_parquet", absent)
        with pytest.raises(TaskError, match=r"t\.parquet is a Parquet file; to read it: pip install pyarrow$"):
            OwnText(file=str(path)).check()
    pytest.importorskip("pyarrow")
    with pytest.raises(TaskError, match=r"t\.parquet cannot be read as a table"):
        OwnText(file=str(path)).check()
    pandas.read_csv(file).to_parquet(path)
    assert OwnText(file=str(path)).label_names == ["bad", "good"]


def test_only_an_empty_label_is_blank(tmp_path: Path) -> None:
    rows = [{"text": f"text number {i}", "label": ("None", "NA", "nan")[i % 3] if i < 12 else ""} for i in range(30)]
    path = fake_data.write_csv(tmp_path / "a.csv", rows)
    assert OwnText(file=str(path)).label_names == ["NA", "None", "nan"]
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    labels = ["None", "yes", None, float("nan")]
    pandas.DataFrame({"text": list("abcd"), "label": labels}, dtype=object).to_parquet(tmp_path / "t.parquet")
    assert OwnText(file=str(tmp_path / "t.parquet")).label_names == ["None", "yes"]

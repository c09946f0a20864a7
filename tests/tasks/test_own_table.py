"""One's own table: columns become inputs, a blank target a row to impute, numbers of many sizes a regression."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import torch

from metaimpute.batches.outputs import Classes, Quantities
from metaimpute.tasks import OwnTable, TaskError
from metaimpute.tasks.targets import are_values

from .. import fake_data


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return fake_data.make_own_table(tmp_path)


def rows(count: int = 60) -> list[dict[str, object]]:
    return [{"x": (i * 7 % 13) / 3, "word": "ab"[i % 2], "target": "uv"[i % 2] if i < 30 else ""} for i in range(count)]


def table(folder: Path, **columns: object) -> Path:
    """A table with further columns: a function of the row number each."""
    made = [{**row, **{name: of(i) for name, of in columns.items()}} for i, row in enumerate(rows())]  # type: ignore[operator]
    return fake_data.write_csv(folder / "t.csv", made)


def test_columns_become_scaled_numbers_and_one_hot_words(file: Path) -> None:
    task = OwnTable(file=str(file), id="id")
    data = task.load(0)
    assert task.label_names == ["high", "low", "mid"] and isinstance(task.output, Classes)
    assert task.row_names(data.unlabelled)[0] == "r30"
    # x; flag; noise and the mark of its gaps; colour: blank, blue, red
    assert task.input_shape == (7,)
    training = torch.cat([data.labelled.inputs, data.unlabelled.inputs])
    torch.testing.assert_close(training[:, 0].mean(), torch.tensor(0.0), atol=1e-5, rtol=0)
    torch.testing.assert_close(training[:, 0].std(correction=0), torch.tensor(1.0))
    assert torch.isfinite(training).all() and set(training[:, -3:].sum(1).tolist()) == {1.0}


def test_nothing_is_learnt_from_test_rows(file: Path, tmp_path: Path) -> None:
    test = tmp_path / "test.csv"
    fake_data.make_own_table(tmp_path, labelled=12, unlabelled=0, name="test.csv")
    plain = OwnTable(file=str(file), id="id", test=str(test)).load(0)
    test.write_text(test.read_text().replace("red", "violet").replace("blue", "-1e9"))
    moved = OwnTable(file=str(file), id="id", test=str(test)).load(0)
    assert torch.equal(plain.labelled.inputs, moved.labelled.inputs)
    assert torch.equal(plain.test.inputs[:, :4], moved.test.inputs[:, :4])


def test_a_numeric_target_is_a_regression_in_its_own_units(tmp_path: Path) -> None:
    path = fake_data.make_own_table(tmp_path, labelled=50, values=True)
    task = OwnTable(file=str(path), id="id")
    data = task.load(0)
    assert isinstance(task.output, Quantities) and task.label_names == ["target"] and task.output.metric == "RMSE"
    torch.testing.assert_close(data.labelled.targets.mean(), torch.tensor(0.0), atol=1e-5, rtol=0)
    assert torch.isnan(data.unlabelled.targets).all() and data.unlabelled.targets.shape == (60, 1)
    truth = task.output.original(data.test.targets)
    error = task.output.error(torch.zeros(10, 1), data.test.targets)
    expected = (truth - task.output.mean[0]).square().mean().sqrt()
    assert task.output.overall(float(error.mean())) == pytest.approx(float(expected))
    assert 5 < float(expected) < 20


@pytest.mark.parametrize(
    ("labels", "known", "values"),
    [
        (["0", "1"], 500, False), (["1.5", "2", "3"], 500, True), ([str(i) for i in range(21)], 500, True),
        ([str(i) for i in range(10)], 50, False), ([str(i) for i in range(15)], 16, True), (["1", "2"], 2, False),
        (["a", "1.5"], 9, False), ([], 0, False), (["inf", "1"], 9, False),
    ],
)  # fmt: skip
def test_what_a_target_is_taken_for(labels: list[str], known: int, values: bool) -> None:
    assert are_values(labels, known) == values


def test_kind_decides_where_it_is_given(tmp_path: Path) -> None:
    path = fake_data.write_csv(tmp_path / "t.csv", [{"x": i % 7, "y": (i % 3) if i < 20 else ""} for i in range(40)])
    assert OwnTable(file=str(path), target="y").label_names == ["0", "1", "2"]
    assert isinstance(OwnTable(file=str(path), target="y", kind="values").output, Quantities)
    words = table(tmp_path)
    with pytest.raises(TaskError, match="kind: values, but the target holds words: 'u', 'v'"):
        OwnTable(file=str(words), kind="values").check()


@pytest.mark.parametrize(
    ("of", "reason"),
    [
        (lambda i: 4, "it is the same in every row"), (lambda i: "", "it is empty"), (lambda i: i + 1, "it numbers the rows"),
        (lambda i: f"key-{i}", "its words differ in every row"), (lambda i: "2024-01-05", "it is the same in every row"),
    ],
)  # fmt: skip
def test_columns_that_are_no_inputs_are_left_out_with_a_reason(of: object, reason: str, tmp_path: Path) -> None:
    task = OwnTable(file=str(table(tmp_path, odd=of)))
    said = [line for line in task.load(0).warnings if "'odd'" in line]
    assert len(said) == 1 and said[0].startswith("left out column 'odd'") and reason in said[0]
    assert task.input_shape == (3,)
    assert not any("'odd'" in line for line in OwnTable(file=str(table(tmp_path, odd=of)), ignore=["odd"]).warnings(0))


def test_a_copy_of_the_target_and_repeated_rows_are_said(tmp_path: Path) -> None:
    found = OwnTable(file=str(table(tmp_path, twin=lambda i: "uv"[i % 2]))).warnings(0)
    assert "column 'twin' equals the target wherever that is known; if it is a copy, add it to ignore" in found
    assert any("test rows also occur in the training data" in line for line in found)


def test_views_keep_rows_in_the_range_of_the_data(file: Path) -> None:
    task = OwnTable(file=str(file), id="id", weak=0.1, strong=0.0, swap=0.5)
    raw = task.load(0).unlabelled.take(torch.arange(60))
    weak, strong = (task.view(raw, kind, torch.Generator().manual_seed(1)) for kind in ("weak", "strong"))  # type: ignore[arg-type]
    numbers = [0, 1, 2]
    words = [4, 5, 6]
    assert torch.equal(weak[:, [3, *words]], raw[:, [3, *words]]) and not torch.equal(weak[:, numbers], raw[:, numbers])
    assert set(strong[:, words].sum(1).tolist()) == {1.0}, "one-hot columns move together"
    for column in range(raw.shape[1]):
        assert set(strong[:, column].tolist()) <= set(raw[:, column].tolist())
    moved = (strong[:, 0] != raw[:, 0]).float().mean()
    assert 0.3 < float(moved) < 0.7
    assert torch.equal(task.view(raw, "none", torch.Generator()), raw)


def test_what_was_learnt_is_restored_without_the_data_and_without_pickle(tmp_path: Path) -> None:
    path = fake_data.make_own_table(tmp_path, values=True)
    task = OwnTable(file=str(path), id="id")
    task.load(0)
    kept = tmp_path / "kept"
    kept.mkdir()
    task.save(kept)
    content = path.read_text().replace("red", "never seen")
    path.unlink()
    later = OwnTable(file=str(path), id="id")
    later.restore(kept)
    assert later.output == task.output and later.input_shape == task.input_shape and later.label_names == ["target"]
    new = tmp_path / "new.csv"
    new.write_text(content)
    names, raw = later.read(new)
    assert names[:2] == ["r0", "r1"] and torch.equal(raw, task.read(new)[1])
    new.write_text(content.replace("noise", "nosie"))
    with pytest.raises(TaskError, match=r"new\.csv.* no column 'noise'; did you mean 'nosie'"):
        later.read(new)
    (kept / "inputs.skops").write_bytes(pickle.dumps(print))
    with pytest.raises(TaskError, match=r"inputs\.skops cannot be read"):
        later.restore(kept)
    known = json.loads((kept / "task.json").read_text())
    (kept / "task.json").write_text(json.dumps(known | {"columns": None}))
    with pytest.raises(TaskError, match=r"task\.json cannot be read"):
        later.restore(kept)


def test_preprocessing_of_strange_types_is_refused(tmp_path: Path) -> None:
    skops_io = pytest.importorskip("skops.io")
    task = OwnTable(file=str(fake_data.make_own_table(tmp_path)), id="id")
    task.load(0)
    task.save(tmp_path)
    skops_io.dump(Path("x"), tmp_path / "inputs.skops")
    with pytest.raises(TaskError, match="holds types that are not trusted: pathlib"):
        OwnTable(file="gone.csv").restore(tmp_path)


def test_mistakes_name_the_option_and_the_nearest_column(file: Path) -> None:
    for options, message in (
        ({"target": "targt"}, "target: .* did you mean 'target'"), ({"id": "idd"}, "id: .* did you mean 'id'"),
        ({"ignore": ["colr"]}, "ignore: .* did you mean 'colour'"), ({"test_share": 1.0}, "test_share: below 1"),
    ):  # fmt: skip
        with pytest.raises(TaskError, match=message):
            OwnTable(file=str(file), **options).check()  # type: ignore[arg-type]
    with pytest.raises(TaskError, match="file: .* has no column beside 'target'"):
        OwnTable(file=str(file), id="id", ignore=["x", "colour", "flag", "noise"]).load(0)


def test_large_values_keep_their_digits(tmp_path: Path) -> None:
    rows = [{"x": i * 7 % 13, "y": 1_700_000_000 + i % 30 if i < 60 else ""} for i in range(90)]
    task = OwnTable(file=str(fake_data.write_csv(tmp_path / "t.csv", rows)), target="y", kind="values", test_share=0.1)
    data = task.load(0)
    assert isinstance(task.output, Quantities) and 8 < task.output.std[0] < 10
    assert data.labelled.targets.dtype == torch.float32 and float(
        data.labelled.targets.std(correction=0)
    ) == pytest.approx(1)
    given = [float(rows[i]["y"]) for i in data.test.ids.tolist()]  # type: ignore[arg-type]
    assert task.output.original(data.test.targets)[:, 0].tolist() == pytest.approx(given, abs=1e-3, rel=0)


def test_only_an_empty_target_is_blank(tmp_path: Path) -> None:
    words = ("None", "NA", "null", "nan", "yes")
    names = (*(f"r{i}" for i in range(30)), *words, *(f"r{i}" for i in range(35, 60)))
    rows = [{"id": names[i], "x": i * 7 % 13, "target": words[i % 5] if i < 30 else " " * (i % 2)} for i in range(60)]
    path = fake_data.write_csv(tmp_path / "t.csv", rows)
    task = OwnTable(file=str(path), id="id", test_share=0, missing_values=[])
    assert task.label_names == sorted(words)
    data = task.load(0)
    assert (len(data.labelled), len(data.unlabelled)) == (30, 30)
    assert task.row_names(data.unlabelled)[:2] == ["None", "NA"]
    with pytest.raises(
        TaskError, match="^id: column 'id' does not name the rows: line 32 of t.csv has 'None', a word for none"
    ):
        OwnTable(file=str(path), id="id").check()


def test_decimal_commas_are_numbers_and_said(tmp_path: Path) -> None:
    lines = [
        f"{'-' * (i % 2)}{i % 9},{i % 7};{f'{i * 5 % 11}.000,5' if i % 9 else ' '};{i % 4};{i % 30},25"
        for i in range(60)
    ]
    path = tmp_path / "t.csv"
    path.write_text("\n".join(["a;b;c;y", *lines[:40], *(line.rpartition(";")[0] + ";" for line in lines[40:])]))
    task = OwnTable(file=str(path), target="y")
    data = task.load(0)
    assert "read 1,5 as a number in columns 'a', 'b', 'y'" in data.warnings
    assert isinstance(task.output, Quantities) and task.input_shape == (4,) and 10 < task.output.mean[0] < 17
    raw = task.read(path)[1]
    assert task.read_warnings == ["read 1,5 as a number in columns 'a', 'b'"]
    torch.testing.assert_close(raw[data.unlabelled.ids], data.unlabelled.inputs)


def test_what_training_has_not_seen_is_said_of_new_rows(tmp_path: Path) -> None:
    task = OwnTable(file=str(table(tmp_path)))
    task.load(0)
    new = tmp_path / "new.csv"
    new.write_text("x,word\n1,a\n?,b\n,c\n2,c\n")
    assert torch.isfinite(task.read(new)[1]).all()
    assert task.read_warnings == [
        "column 'x': 1 of 4 cells are no number and count as blank: '?' (line 3 of new.csv)",
        "column 'word': 2 of 4 cells hold what training has never seen: 'c'",
    ]
    new.write_text("x,word\n1,a\n")
    task.read(new)
    assert task.read_warnings == []
    new.write_text("x,word\none,a\ntwo,b\n")
    with pytest.raises(
        TaskError, match=r"new\.csv: column 'x' holds numbers in training, .* no cell is one: 'one', 'two'"
    ):
        task.read(new)


def test_a_column_of_ids_hides_no_repeated_rows(tmp_path: Path) -> None:
    task = OwnTable(file=str(table(tmp_path, key=lambda i: f"key-{i}")), validation=4)
    found = task.warnings(0)
    assert any("of 6 test rows also occur in the training data" in line for line in found)
    assert any("of 4 validation rows also occur in the training data" in line for line in found)


def test_separators_inside_quotes_of_the_header_do_not_count(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text(
        '"size, in cm, or so";word;target\n' + "".join(f"{i * 7 % 13};w;{'uv'[i % 2]}\n" for i in range(20)) + "1;z;\n"
    )
    task = OwnTable(file=str(path))
    task.load(0)
    assert list(task.columns) == ["size, in cm, or so", "word"] and task.label_names == ["u", "v"]

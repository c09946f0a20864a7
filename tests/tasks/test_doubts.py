"""What decides between two readings of a column is named by cell and line; where both are near, the user is asked."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from metaimpute.batches.outputs import Classes, Quantities
from metaimpute.tasks import OwnTable, OwnText, TaskData, TaskError
from metaimpute.tasks.doubts import Doubt

from .. import fake_data

COUNT = 60
WORDS = [("a", "b", "c")[i % 3] if i < 30 else "" for i in range(COUNT)]
VALUES = [f"{i * 7 % 23 / 4:.2f}" if i < 30 else "" for i in range(COUNT)]
NUMBERS = [f"{i * 5 % 17 / 3:.2f}" for i in range(COUNT)]


def changed(cells: list[str], **others: str) -> list[str]:
    """``r5="?"``: the cell of row 5."""
    found = list(cells)
    for row, cell in others.items():
        found[int(row[1:])] = cell
    return found


def table(folder: Path, x: list[str] = NUMBERS, y: list[str] = WORDS, separator: str = ",") -> str:
    path = folder / "t.csv"
    lines = [
        separator.join(f'"{c}"' if separator in c else c for c in row) for row in zip(x, "pq" * 30, y, strict=True)
    ]
    path.write_text("\n".join([separator.join(("x", "w", "y")), *lines, ""]))
    return str(path)


def loaded(path: str, **options: Any) -> tuple[OwnTable, TaskData]:
    task = OwnTable(file=path, target="y", **options)
    return task, task.load(0)


def said(data: TaskData, about: str) -> list[str]:
    return [line for line in data.warnings if about in line]


# columns of inputs ---------------------------------------------------------------------------------------------------

ODD = {"?": 'missing_values: {"x": ["?"]}', "12,05": "write them as the others", "n/k": "", "1e300": "beyond 3.4e38"}


@pytest.mark.parametrize("cell", ODD)
def test_a_few_odd_cells_among_numbers_are_asked_about(cell: str, tmp_path: Path) -> None:
    path = table(tmp_path, changed(NUMBERS, r5=cell, r9=cell))
    with pytest.raises(Doubt) as raised:
        loaded(path)
    message = str(raised.value)
    assert message.startswith("file: column 'x': 2 of 60 cells are ") and "(lines 7 and 11 of t.csv)" in message
    assert ODD[cell] in message and 'ignore: ["x"]' in message and len(message) < 480


def test_what_a_file_holds_is_shown_in_one_line_of_printable_characters(tmp_path: Path) -> None:
    path = Path(table(tmp_path, changed(NUMBERS, r5="\x1b[31m?", r9="long " * 1000)))
    path.write_text(path.read_text().replace("x,w,y", '"x\n\x07",w,y'))
    with pytest.raises(Doubt) as asked:
        loaded(str(path))
    message = str(asked.value)
    assert message.isprintable() and len(message) < 600 and r"'\x1b[31m?' (line 8 of t.csv), 'long long" in message


def test_each_answer_settles_it(tmp_path: Path) -> None:
    path = table(tmp_path, changed(NUMBERS, r5="?", r9="?"))
    blank, data = loaded(path, missing_values={"x": ["?"]})
    assert blank.input_shape == (4,), "a number and the mark of its gaps; two words"
    assert loaded(path, missing_values=["?"])[0].input_shape == (4,)
    words, _ = loaded(path, words=["x"])
    assert words._inputs is not None and "?" in words._inputs.words("x")
    assert loaded(path, ignore=["x"])[0].columns == ("w",)
    assert torch.isfinite(data.unlabelled.inputs).all()  # type: ignore[arg-type]


def test_a_column_of_words_with_numbers_among_them_is_words_and_that_is_said(tmp_path: Path) -> None:
    mixed = [f"A/{i}" if i % 4 == 0 else str(i * 7 % 31) for i in range(COUNT)]
    _, data = loaded(table(tmp_path, mixed))
    assert said(data, "'x'")[0].startswith(
        "column 'x' is taken as words: 15 of 60 cells are no number: 'A/0' (line 2 of t.csv)"
    )
    assert not said(loaded(table(tmp_path, ["red" if i % 3 else "7" for i in range(COUNT)]))[1], "'x'")


def test_cells_that_look_like_numbers_and_are_none_are_said_or_asked_about(tmp_path: Path) -> None:
    shares = [f"{i * 7 % 31},5" for i in range(COUNT)]
    assert said(loaded(table(tmp_path, shares))[1], "'x'") == [
        "column 'x' is taken as words: its cells look like numbers and none is one, e.g. '0,5' (line 2 of t.csv); write them "
        "with a decimal point and nothing else if they are"
    ]
    for labels in (
        [cell.replace(".", ",") for cell in VALUES],
        [f"{i},{i:03}" if i < 30 else "" for i in range(COUNT)],
    ):
        with pytest.raises(
            Doubt, match=r"^target: the labels look like numbers and none is one, e\.g\. '0,0.*' \(line 2 of t"
        ):
            loaded(table(tmp_path, y=labels))
        assert len(OwnTable(file=table(tmp_path, y=labels), target="y", kind="classes").label_names or []) > 20
    few = [("10%", "20%", "30%")[i % 3] if i < 30 else "" for i in range(COUNT)]
    assert loaded(table(tmp_path, y=few))[0].label_names == ["10%", "20%", "30%"]


def test_rows_that_hold_nothing_are_said(tmp_path: Path) -> None:
    path = Path(table(tmp_path))
    path.write_text(path.read_text() + ",,\n , ,\n")
    task = OwnTable(file=str(path), target="y")
    assert "2 rows with nothing at all: lines 62 and 63 of t.csv" in task.load(0).warnings


def test_infinite_cells_count_as_blank_and_are_named(tmp_path: Path) -> None:
    task, data = loaded(table(tmp_path, changed(NUMBERS, r5="inf", r9="-inf")))
    assert said(data, "'x'") == [
        "column 'x': 2 of 60 cells are infinite and count as blank: 'inf' (line 7 of t.csv), '-inf' (line 11 of t.csv)"
    ]
    assert task.input_shape == (4,) and not said(loaded(table(tmp_path), missing_values=["inf"])[1], "'x'")


@pytest.mark.parametrize("start", [2**53, 2**63 - 30, 2**63, 2**64 + 1, 2**70])
def test_whole_numbers_of_any_size_are_numbers(start: int, tmp_path: Path) -> None:
    cells = [str(start + (i * i * 37 % 11) * start // 8) for i in range(COUNT)]
    task, data = loaded(table(tmp_path, cells))
    assert "x" in task.columns and torch.isfinite(data.unlabelled.inputs).all()  # type: ignore[arg-type]
    values, data = loaded(table(tmp_path, y=cells[:30] + [""] * 30), kind="values")
    assert isinstance(values.output, Quantities) and torch.isfinite(data.labelled.targets).all()  # type: ignore[arg-type]


def test_whole_numbers_that_float64_cannot_tell_apart_are_no_input(tmp_path: Path) -> None:
    task, data = loaded(table(tmp_path, [str(2**63 + i * 7 % 5) for i in range(COUNT)]))
    assert task.columns == ("w",)
    assert said(data, "'x'") == ["left out column 'x': its numbers differ only beyond 16 digits, as those of an id may"]


def test_numbers_too_far_from_training_count_as_blank_and_are_named(tmp_path: Path) -> None:
    task, _ = loaded(table(tmp_path))
    new = tmp_path / "new.csv"
    new.write_text("x,w\n1,p\n1e30,q\n1e300,p\n")
    names, rows = task.read(new)
    assert torch.isfinite(rows).all() and len(names) == 3
    assert task.read_warnings == [
        "column 'x': 1 of 3 cells are no number and count as blank: '1e+300' (line 4 of new.csv)",
        "column 'x': 1 of 3 cells lie too far off and count as blank: '1e+30'",
    ]
    test = tmp_path / "test.csv"
    test.write_text("x,w,y\n" + "".join(f"{1e30 if i == 3 else i},p,{'abc'[i % 3]}\n" for i in range(12)))
    data = OwnTable(file=table(tmp_path), target="y", test=str(test)).load(0)
    assert torch.isfinite(data.test.inputs).all()  # type: ignore[arg-type]
    assert said(data, "'x'") == [
        "among test and validation rows: column 'x': 1 of 12 cells lie too far off and count as blank: '1e+30'"
    ]


def test_an_odd_cell_of_the_test_file_moves_nothing_of_training(tmp_path: Path) -> None:
    test = tmp_path / "test.csv"
    test.write_text("x,w,y\n" + "".join(f"{i},p,{'abc'[i % 3]}\n" for i in range(12)))
    plain = OwnTable(file=table(tmp_path), target="y", test=str(test)).load(0)
    test.write_text(test.read_text().replace("5,p", "?,p"))
    odd = OwnTable(file=table(tmp_path), target="y", test=str(test)).load(0)
    assert torch.equal(plain.unlabelled.inputs, odd.unlabelled.inputs)  # type: ignore[arg-type]
    assert said(odd, "'x'") == ["column 'x': 1 of 12 cells are no number and count as blank: '?' (line 7 of test.csv)"]
    test.write_text("x,y\n1,a\n")
    with pytest.raises(TaskError, match=r"^test: test\.csv has no column 'w'"):
        OwnTable(file=table(tmp_path), target="y", test=str(test)).check()


def test_codes_are_kept_as_written_where_they_are_words(tmp_path: Path) -> None:
    cells = [f"{i % 3:02}" for i in range(COUNT)]
    task, _ = loaded(table(tmp_path, cells), words=["x"])
    new = tmp_path / "new.csv"
    new.write_text("x,w\n01,p\n02,q\n,p\n")
    task.read(new)
    assert task.read_warnings == ["column 'x': 1 of 3 cells hold what training has never seen: ''"]


@pytest.mark.parametrize(
    "names", [("mean__x", "remainder"), ("drop", "passthrough"), ("column 0", "column 1"), ("a", "0")]
)
def test_a_column_may_be_called_as_scikit_learn_calls_its_own(names: tuple[str, str], tmp_path: Path) -> None:
    path = Path(table(tmp_path))
    path.write_text(path.read_text().replace("x,w,y", f"{names[0]},{names[1]},y"))
    task, data = loaded(str(path))
    task.save(tmp_path)
    again = OwnTable(file="gone.csv", target="y")
    again.restore(tmp_path)
    rows = again.read(path)[1]
    torch.testing.assert_close(rows[data.unlabelled.ids], data.unlabelled.inputs)
    assert task.columns == again.columns == names and again._inputs is not None
    assert again._inputs.column_of.tolist() == [0, 1, 1] and again._inputs.measured.tolist() == [1, 0, 0]


def test_codes_are_words_in_parquet_too(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    frame = pandas.DataFrame({"x": np.arange(COUNT) % 3, "w": ["p", "q"] * 30, "y": WORDS})
    frame["x"] = frame["x"].where(np.arange(COUNT) != 3)
    frame.to_parquet(tmp_path / "t.parquet")
    frame.loc[:20].assign(x=1, y="a").to_parquet(tmp_path / "test.parquet")
    task = OwnTable(file=str(tmp_path / "t.parquet"), test=str(tmp_path / "test.parquet"), target="y", words=["x"])
    task.load(0)
    assert task._inputs is not None and task._inputs.words("x") == {"", "0", "1", "2"}
    task.read(tmp_path / "test.parquet")
    assert task.read_warnings == []


# targets -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cell", ["NA", "inf", "12,05", "?", "1e300"])
def test_an_odd_cell_among_values_is_asked_about(cell: str, tmp_path: Path) -> None:
    path = table(tmp_path, y=changed(VALUES, r5=cell))
    with pytest.raises(
        Doubt, match=r"^target: 1 of 30 cells are no number to compute with: '.*' \(line 7 of t\.csv\); "
    ) as asked:
        loaded(path)
    assert "kind: classes" in str(asked.value) and ("write them as the others" in str(asked.value)) == (cell == "12,05")
    task, data = loaded(path, missing_values={"y": [cell]})
    assert isinstance(task.output, Quantities) and len(data.unlabelled) == 31
    assert isinstance(loaded(path, kind="classes", labels=0, test_share=0)[0].output, Classes)
    with pytest.raises(
        TaskError, match=r"kind: values, but the target holds .* \(line 7 of t\.csv\); missing_values: "
    ):
        loaded(path, kind="values")


def test_a_target_beyond_what_can_be_computed_with_is_asked_about(tmp_path: Path) -> None:
    far = [f"{cell}e200" if cell else "" for cell in VALUES]
    far[0] = "1e200"
    with pytest.raises(
        Doubt, match=r"^target: 29 of 30 cells are no number to compute with: '1e200' \(lines 2 and 19 of t\.csv\)"
    ):
        loaded(table(tmp_path, y=far))


def test_a_decimal_point_among_commas_is_asked_about(tmp_path: Path) -> None:
    commas = [cell.replace(".", ",") for cell in VALUES]
    with pytest.raises(
        Doubt, match=r"target: 1 of 30 cells are .*'12\.05' \(line 7 of t\.csv\); write them as the others"
    ):
        loaded(table(tmp_path, y=changed(commas, r5="12.05"), separator=";"))
    assert isinstance(loaded(table(tmp_path, y=commas, separator=";"))[0].output, Quantities)


def test_whole_numbers_that_may_be_either_are_said(tmp_path: Path) -> None:
    def warned(different: int, **options: Any) -> list[str]:
        y = [str(i % different) if i < 56 else "" for i in range(COUNT)]
        return said(loaded(table(tmp_path, y=y), test_share=0, **options)[1], "different whole numbers")

    assert warned(18) == ["the target's 18 different whole numbers are taken as classes; kind: values if they are not"]
    assert warned(25) == ["the target's 25 different whole numbers are taken as values; kind: classes if they are not"]
    assert warned(18, kind="classes") == warned(5) == []


# labels that may mean none -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("word", ["NA", "nan", "unlabelled", "?", "-1"])
def test_a_label_for_none_in_most_rows_is_asked_about(word: str, tmp_path: Path) -> None:
    y = [("1", "2", "3")[i % 3] if i < 20 else word for i in range(COUNT)]
    path = table(tmp_path, y=y)
    for task in (OwnTable(file=path, target="y"), OwnText(file=path, text="w", label="y")):
        option = "target" if isinstance(task, OwnTable) else "label"
        with pytest.raises(Doubt) as asked:
            task.check()
        assert str(asked.value) == (
            f'{option}: \'{word}\' stands in 40 of 60 rows; missing_values: {{"y": ["{word}"]}} if it means that there is no '
            f"label, missing_values: [] if it is one"
        )
    task, data = loaded(path, missing_values=[word], test_share=0)
    assert task.label_names == ["1", "2", "3"] and len(data.unlabelled) == 40
    kept = OwnTable(file=path, target="y", missing_values=[], unlabelled_includes_labelled=True)
    kept.load(0)
    assert word in (kept.label_names or [])


def test_a_label_for_none_in_a_table_without_blanks_is_asked_about(tmp_path: Path) -> None:
    y = [("a", "b")[i % 2] if i < 45 else "NA" for i in range(COUNT)]
    with pytest.raises(Doubt, match="target: 'NA' stands in 15 of 60 rows"):
        loaded(table(tmp_path, y=y))
    signs = [("1", "0", "-1")[i % 3] for i in range(COUNT)]
    signs[0] = signs[2] = "0"
    assert loaded(table(tmp_path, y=signs), unlabelled_includes_labelled=True)[0].label_names == ["-1", "0", "1"]
    with pytest.raises(
        TaskError, match="every example has a label; leave some labels blank, or name the word that means none"
    ):
        loaded(table(tmp_path, y=["ab"[i % 2] for i in range(COUNT)]))


def test_a_label_that_may_mean_none_is_said_and_two_classes_are_not_asked_about(tmp_path: Path) -> None:
    some = [("a", "b", "NA")[i % 3] if i < 30 else "" for i in range(COUNT)]
    assert said(loaded(table(tmp_path, y=some))[1], "'NA'") == [
        '\'NA\', in 10 rows, is taken as a label; missing_values: {"y": ["NA"]} if it means that there is none'
    ]
    assert not said(loaded(table(tmp_path, y=some), missing_values=[])[1], "'NA'")
    svm = ["-1" if i % 8 else "1" for i in range(COUNT)]
    assert loaded(table(tmp_path, y=svm), unlabelled_includes_labelled=True)[0].label_names == ["-1", "1"]


def test_missing_values_hold_in_every_column_or_in_those_named(tmp_path: Path) -> None:
    x = changed(NUMBERS, r3="-1", r4="-1.0")
    y = [("1", "2")[i % 2] if i < 30 else "-1" for i in range(COUNT)]
    everywhere, _ = loaded(table(tmp_path, x, y), missing_values=["-1"])
    there, _ = loaded(table(tmp_path, x, y), missing_values={"y": ["-1"]})
    assert (everywhere.input_shape, there.input_shape) == ((4,), (3,)), "the mark of gaps"
    new = tmp_path / "new.csv"
    new.write_text("x,w\n-1,p\n2,?\n")
    assert everywhere.read(new)[1][0, 1] > 0 > everywhere.read(new)[1][1, 1]
    with pytest.raises(TaskError, match=r"^missing_values: t\.csv has no column 'z'"):
        loaded(table(tmp_path), missing_values={"z": ["?"]})


def test_texts_and_labels_named_as_none_are_left_out_and_unlabelled(tmp_path: Path) -> None:
    rows = [{"text": "?" if i == 7 else f"text number {i}", "label": "xy"[i % 2] if i < 20 else "?"} for i in range(50)]
    path = str(fake_data.write_csv(tmp_path / "t.csv", rows))
    task = OwnText(file=path, missing_values=["?"])
    data = task.load(0)
    assert task.label_names == ["x", "y"] and len(data.unlabelled) == 30
    assert "left out 1 row without text" in data.warnings


def test_parquet_has_gaps_of_every_type(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    gap = np.arange(COUNT) % 9 == 0
    frame = pandas.DataFrame({"y": pandas.Series(WORDS, dtype="string").mask(np.arange(COUNT) >= 30)})
    frame["whole"] = pandas.Series(np.arange(COUNT) % 7, dtype="Int64").mask(gap)
    frame["truth"] = pandas.Series(np.arange(COUNT) % 2 == 0, dtype="boolean").mask(gap)
    frame["decimal"] = pandas.Series(NUMBERS).astype("Float64").mask(gap)
    frame["word"] = pandas.Series(["pq"[i % 2] for i in range(COUNT)], dtype="category").mask(gap)
    frame["money"] = [Decimal(cell) for cell in NUMBERS]
    frame["written"] = [NUMBERS[i] if i % 9 else "?" for i in range(COUNT)]
    frame.to_parquet(tmp_path / "t.parquet")
    task, data = loaded(str(tmp_path / "t.parquet"))
    assert torch.isfinite(data.unlabelled.inputs).all() and len(data.unlabelled) == 30  # type: ignore[arg-type]
    assert said(data, "'written'") == [
        "column 'written' is taken as words, as the file has it, though 53 of 60 cells are numbers; "
        'numbers: ["written"] if they count'
    ]
    assert task._inputs is not None and set(task._inputs.numbers) == {"whole", "truth", "decimal", "money"}
    assert task.read(tmp_path / "t.parquet")[1].shape == (60, *task.input_shape) and task.read_warnings == []

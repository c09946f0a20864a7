"""The shape of a text table is never guessed: a row of another length, a title, another encoding are named by line."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from metaimpute.tasks import OwnTable, OwnText, TaskError
from metaimpute.tasks.files import read_table
from metaimpute.tasks.shape import survey
from metaimpute.tasks.text_task import read_texts

HEADER = "id,label,grade,z"
ROWS = [f"r{i},{'no' if i % 2 else 'yes'},{'mid' if i % 3 else 'low'},{i / 4}" for i in range(8)]


def file(folder: Path, rows: list[str], header: str = HEADER, name: str = "t.csv", encoding: str = "utf-8") -> Path:
    path = folder / name
    path.write_bytes("\n".join([header, *rows, ""]).encode(encoding))
    return path


def with_row(number: int, row: str) -> list[str]:
    return [*ROWS[:number], row, *ROWS[number + 1 :]]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([f"{row}," for row in ROWS], "line 2: 5 cells, but the header in line 1 has 4: the row ends in ',', which the header"),
        (with_row(6, f"{ROWS[6]},"), "line 8: 5 cells, but the header in line 1 has 4: the row ends in ','"),
        (with_row(0, f"{ROWS[0]},"), "line 2: 5 cells"),
        (with_row(3, "r3,no,mid, or so,1"), "line 5: 5 cells, .*; a cell that holds ',' must stand in quotes"),
        (with_row(3, 'r3,"no,mid,1'), "line 5: 2 cells, .*, and runs over several lines: is a quote left open there"),
        ([row.replace(",", ";") for row in ROWS], "line 2: 1 cell, .*: do they separate their cells by something else"),
        (with_row(3, "r3,no,mid"), "line 5: 3 cells, .*; give every row as many cells as the header, blank ones too"),
        ([f"{i},{row}" for i, row in enumerate(ROWS)], "line 2: 5 cells, .* as in the rows after it; give every column a name"),
        ([HEADER, *ROWS], None),
    ],
)  # fmt: skip
def test_a_row_of_another_length_is_refused_by_line(rows: list[str], said: str | None, tmp_path: Path) -> None:
    if said is None:
        path = file(tmp_path, ["as of May", *rows], header="Grades of 2024")
        said = "line 3: 4 cells, but the header in line 1 has 1: is line 1 a title"
    else:
        path = file(tmp_path, rows)
    for task in (OwnTable(file=str(path), target="label"), OwnText(file=str(path), text="grade")):
        with pytest.raises(TaskError, match=rf"t\.csv, {said}"):
            task.check()


def test_a_title_with_the_separators_of_the_rows_is_no_header(tmp_path: Path) -> None:
    with pytest.raises(
        TaskError, match=r"t\.csv, line 1: is 'Grades of 2024' a title\? The header must be the first line"
    ):
        read_table(file(tmp_path, [HEADER, *ROWS], header="Grades of 2024,,,"))
    saved = read_table(file(tmp_path, [f"{i},1,2" for i in range(3)], header=",a,b"))
    assert list(saved.frame.columns) == ["Unnamed: 0", "a", "b"], "an index that pandas has saved is a column"


def test_lines_are_counted_as_an_editor_does(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(b'text,label\r\n\r\n"two\r\nlines",x\r\n   \r\nplain,y\r\n" ",z\r\n')
    assert survey(path).lines == [3, 6, 7]
    table = read_table(path, ("text", "label"))
    assert table.frame["label"].tolist() == ["x", "y", "z"]
    assert table.where([1]) == "line 6 of t.csv" and table.where([0, 2]) == "lines 3 and 7 of t.csv"
    assert table.where([0, 1, 2], 2) == "lines 3, 6 and 1 more of t.csv"


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=r"t\.csv: two columns are called 'label'"):
        read_table(file(tmp_path, ROWS, header="id,label,label,z"))


def test_cells_may_be_long(tmp_path: Path) -> None:
    limit = csv.field_size_limit()
    table = read_table(file(tmp_path, [f"{'word ' * 60_000},x"], header="text,label"), ("text",))
    assert len(table.frame["text"][0]) == 300_000 and csv.field_size_limit() == limit


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_an_encoding_that_its_mark_names_is_read(encoding: str, tmp_path: Path) -> None:
    path = file(tmp_path, [row.replace("low", "grün") for row in ROWS], encoding=encoding)
    assert OwnTable(file=str(path), target="grade").label_names == ["grün", "mid"]
    lines = file(tmp_path, ["zweite"], header="erste grün", name="t.txt", encoding=encoding)
    assert read_texts(lines, "text", "")[:2] == (["0", "1"], ["erste grün", "zweite"])


def test_another_encoding_is_named_by_line_and_byte(tmp_path: Path) -> None:
    rows = with_row(4, ROWS[4].replace("mid", "grün"))
    said = r"line 6: the byte 0xfc, which is 'ü' in Windows' cp1252, is no UTF-8; save the file in UTF-8"
    for path in (file(tmp_path, rows, encoding="cp1252"), file(tmp_path, rows, name="t.txt", encoding="cp1252")):
        with pytest.raises(TaskError, match=said):
            read_texts(path, "grade", "")
    with pytest.raises(TaskError, match="holds NUL bytes: UTF-16 without its mark"):
        read_table(file(tmp_path, ROWS, encoding="utf-16-le"))
    (tmp_path / "book.csv").write_bytes(b"PK\x03\x04 and so on")
    with pytest.raises(TaskError, match=r"book\.csv is an Excel workbook or another archive"):
        read_table(tmp_path / "book.csv")


def test_the_line_that_names_the_separator_is_no_header(tmp_path: Path) -> None:
    path = file(tmp_path, [HEADER.replace(",", ";"), *(row.replace(",", ";") for row in ROWS)], header="sep=;")
    table = read_table(path, ("label",))
    assert list(table.frame.columns) == HEADER.split(",") and len(table.frame) == 8
    assert table.where([0]) == "line 3 of t.csv" and table.separator == ";"


def test_a_nul_byte_is_refused_by_line(tmp_path: Path) -> None:
    path = file(tmp_path, [*(f"{row}{' ' * 1000}" for row in ROWS), "r8,\0,low,1"])
    with pytest.raises(TaskError, match=r"t\.csv, line 10: a NUL byte, which no text holds"):
        read_table(path)


def test_a_form_feed_ends_no_line_of_a_text_file(tmp_path: Path) -> None:
    path = tmp_path / "t.txt"
    path.write_text("one\x0cpage\u2028still one\ntwo\n")
    assert read_texts(path, "text", "")[0] == ["0", "1"]


def test_an_index_of_parquet_is_a_column_if_it_has_a_name(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    frame = pandas.DataFrame({"id": ["a", "b", "c"], "x": [1, 2, 3]}).iloc[::-1]
    frame.to_parquet(tmp_path / "t.parquet")
    assert list(read_table(tmp_path / "t.parquet").frame.index) == [0, 1, 2]
    frame.set_index("id").to_parquet(tmp_path / "t.parquet")
    table = read_table(tmp_path / "t.parquet")
    assert table.frame["id"].tolist() == ["c", "b", "a"] and table.where([1]) == "row 1 of t.parquet"
    nameless = {"": [i % 5 for i in range(40)], "label": ["ab"[i % 2] if i < 20 else None for i in range(40)]}
    pandas.DataFrame(nameless).to_parquet(tmp_path / "t.parquet")
    task = OwnTable(file=str(tmp_path / "t.parquet"), target="label")
    task.load(0)
    assert task.columns == ("",), "a column without a name is not that of the names of rows, of which there is none"

"""No command writes over a file that it reads; names that begin with ~ are names; help is a page."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from metaimpute.cli import main

QUICK = (
    "--set",
    "train.steps=2",
    "--set",
    "train.eval_every=2",
    "--set",
    "problem.name=none",
    "--set",
    "train.threads=1",
)


def call(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    rows = [f"{i},{('no', 'yes')[i % 2] if i % 3 else ''},{i % 2 + i / 100},{i % 7}" for i in range(40)]
    path = tmp_path / "~mine.csv"
    path.write_text("\n".join(["name,label,a,b", *rows]) + "\n")
    return path


def test_nothing_that_is_read_is_written_over(table: Path) -> None:
    before = table.read_bytes()
    refused = call("init", "table", table.name, "--label", "label", "--out", table.name, "--force")
    assert refused.exit_code == 2 and "is read here" in refused.stderr
    assert call("init", "table", table.name, "--label", "label", "--out", "mine.yaml").exit_code == 0
    done = call("run", "mine.yaml", "--out", "trained", *QUICK)
    assert done.exit_code == 0, done.output
    truth = table.with_name("truth.csv")
    truth.write_text("id,label\n0,no\n")
    for words in (
        ("impute", "trained", "--out", table.name),
        ("predict", "trained", table.name, "--out", table.name),
        ("impute", "trained", "--truth", truth, "--out", truth),
    ):
        refused = call(*words)
        assert refused.exit_code == 2 and "is read here" in refused.stderr, refused.output
    assert table.read_bytes() == before and truth.read_text() == "id,label\n0,no\n"
    assert call("impute", "trained").exit_code == 0


@pytest.mark.parametrize("words", [(), ("data",), ("bench",)])
def test_a_command_without_a_word_shows_its_help_as_a_page(words: tuple[str, ...]) -> None:
    shown = call(*words).output
    assert "\\n" not in shown and len(shown.splitlines()) > 5


@pytest.mark.parametrize("name", ["metrics.jsonl", "result.json", "labels.csv", "checkpoints"])
def test_a_run_does_not_begin_among_files_that_are_not_its_own(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("mine")
    refused = call("run", "two_moons", "--out", tmp_path, *QUICK)
    assert refused.exit_code == 2 and f"holds {name}" in refused.stderr
    assert (tmp_path / name).read_text() == "mine" and len(list(tmp_path.iterdir())) == 1


def test_the_answer_to_a_question_about_labels_is_a_setting_that_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A word that is named for one column answers for itself, and the hint quotes a column's name."""
    monkeypatch.chdir(tmp_path)
    rows = [f"r{i},{'NA' if i % 3 else ('a', 'b')[i // 3 % 2]},{i / 7},{'?' if i == 3 else i % 5}" for i in range(60)]
    Path("t.csv").write_text("\n".join(["id,my: label,a,b", *rows]) + "\n")
    asked = call("init", "table", "t.csv", "--label", "my: label", "--missing", "?")
    assert asked.exit_code == 2 and "'NA' stands in 40 of 60 rows" in asked.stderr
    assert 'missing_values: {"my: label": []}' in asked.stderr
    answer = 'task.missing_values={"my: label": [], "b": ["?"]}'
    done = call("init", "table", "t.csv", "--label", "my: label", "--set", answer)
    assert "stands in" not in done.stderr


def test_parquet_is_read_to_the_last_digit_or_refused_in_a_line(tmp_path: Path) -> None:
    pandas, pytest_arrow = pytest.importorskip("pandas"), pytest.importorskip("pyarrow")
    from pyarrow import parquet

    from metaimpute.tasks.base import TaskError
    from metaimpute.tasks.files import column, read_frame

    large = [10**17, 10**17 + 1, None, 10**17 + 100]
    arrow = pytest_arrow
    path = tmp_path / "t.parquet"
    parquet.write_table(arrow.table({"label": large, "a": [1, None, 2, 3], "w": ["x", None, "y", "z"]}), path)
    frame = read_frame(path)
    assert [None if pandas.isna(v) else int(v) for v in frame["label"]] == large
    assert frame["a"].dtype.kind == "f"
    for cells in ([[1], [2], [3], [4]], [{"a": 1}] * 4, [b"\xff", b"a", None, b"b"]):
        parquet.write_table(arrow.table({"odd": cells, "a": [1, 2, 3, 4]}), path)
        frame = read_frame(path)
        assert column(frame, "a", "text", path).tolist() == [1, 2, 3, 4]
        with pytest.raises(TaskError, match="a column holds neither numbers nor words: 'odd'"):
            column(frame, "odd", "text", path)
    parquet.write_table(arrow.Table.from_arrays([arrow.array([1]), arrow.array([2])], names=["x", "x"]), path)
    with pytest.raises(TaskError, match="two columns are called 'x'"):
        read_frame(path)


def test_a_typeset_minus_is_a_minus() -> None:
    pandas = pytest.importorskip("pandas")
    from metaimpute.tasks.readings import as_numbers

    found = as_numbers(pandas.Series(["\u22120.25", "1", "-2", None]))
    assert found.odd == [] and found.values[:3].tolist() == [-0.25, 1.0, -2.0]


def test_a_file_without_rows_to_label_is_refused(table: Path) -> None:
    assert call("init", "table", table.name, "--label", "label", "--out", "mine.yaml").exit_code == 0
    assert call("run", "mine.yaml", "--out", "trained", *QUICK).exit_code == 0
    table.with_name("none.csv").write_text("name,a,b\n")
    refused = call("predict", "trained", "none.csv")
    assert refused.exit_code == 2 and "none.csv holds no rows" in refused.stderr

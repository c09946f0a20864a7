"""Targets that are hardly what was meant are said: a label for each row, and a few numbers that come again and again."""

from __future__ import annotations

from pathlib import Path

import pandas
import pytest

from metaimpute.tasks.base import TaskError
from metaimpute.tasks.corrections import read_corrections
from metaimpute.tasks.targets import holds_values


def said(labels: list[str], kind: str = "auto") -> tuple[bool, str]:
    values, lines = holds_values(labels, kind, "y", lambda rows: "somewhere")
    return values, "\n".join(lines)


def test_a_label_of_its_own_for_each_row_is_doubted() -> None:
    dates = [f"2024-01-{day:02}" for day in range(1, 31)]
    assert said(dates) == (False, said(dates)[1]) and "30 labels are 30 different ones" in said(dates)[1]
    assert said([*"abc"] * 10) == (False, "") and said(dates[:8])[1] == ""
    assert said(dates, "classes") == (False, "")


def test_a_few_decimals_that_come_again_are_values_and_doubted() -> None:
    grades = ["-1", "-0.5", "0", "0.5", "1"] * 8
    assert said(grades)[0] and "5 different numbers are taken as values; kind: classes" in said(grades)[1]
    assert said(grades, "values") == (True, "") and said(grades[:10])[1] == ""


def corrections(folder: Path, **columns: list[str]) -> Path:
    pandas.DataFrame(columns).to_csv(folder / "c.csv", index=False)
    return folder / "c.csv"


def test_a_file_of_labels_without_any_is_refused(tmp_path: Path) -> None:
    path = corrections(tmp_path, id=["3", "4"], label=["", ""])
    with pytest.raises(TaskError, match="no row has a label; write them into 'label'"):
        read_corrections(path, ["3", "4"], ["a", "b"])


def test_a_heading_that_is_spelt_otherwise_is_to_be_renamed(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="has no column 'id'; rename 'ID'"):
        read_corrections(corrections(tmp_path, ID=["3"], Label=["a"]), ["3"], ["a", "b"])

"""Labels that differ by blanks or capitals alone are told, in files as in memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from metaimpute.tasks import OwnTable, OwnText
from metaimpute.tasks.alike import alike_said


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (["a", "b", "", "a"], []),
        (["a", "b", "a "], ["labels: 'a' and 'a ' differ only by blanks around them and are taken as one class"]),
        (
            ["Spam", "spam"],
            ["labels: 'Spam' and 'spam' differ only by blanks or capitals and are taken as two classes"],
        ),
        (
            ["no  one", "no one"],
            ["labels: 'no  one' and 'no one' differ only by blanks or capitals and are taken as two classes"],
        ),
        (
            ["a\x1b", " a\x1b"],
            ["labels: 'a\\x1b' and ' a\\x1b' differ only by blanks around them and are taken as one class"],
        ),
    ],
)
def test_labels_that_a_slip_made_two(labels: list[str], said: list[str]) -> None:
    assert list(alike_said(labels)) == said


def test_many_pairs_are_counted() -> None:
    (line,) = alike_said([label + blank for label in "abcde" for blank in ("", " ")])
    assert "'c' and 'c ' (and 2 more such pairs) differ only" in line


@pytest.mark.parametrize("kind", ["table", "text"])
def test_a_files_labels_are_looked_at(kind: str, tmp_path: Path) -> None:
    labels = ["a", "a ", "b", "B", "", ""]
    rows = [f"some words {number},{number % 4},{label}" for number, label in enumerate(labels)]
    (tmp_path / "t.csv").write_text("\n".join(["text,number,label", *rows, ""]))
    options = {"test_share": 0.0, "unlabelled_includes_labelled": True}
    file = str(tmp_path / "t.csv")
    task = OwnTable(file=file, target="label", **options) if kind == "table" else OwnText(file=file, **options)
    said = task.load(0).warnings
    assert "labels: 'a' and 'a ' differ only by blanks around them and are taken as one class" in said
    assert "labels: 'b' and 'B' differ only by blanks or capitals and are taken as two classes" in said
    assert task.label_names == ["B", "a", "b"]

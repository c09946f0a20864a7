"""What data in memory is taken for, and what of files that stand for it a message still says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
from PIL import Image
from scipy import sparse

from metaimpute.in_memory.data import data_of, plain_numbers
from metaimpute.in_memory.files import class_folders, in_users_words, label_column

NUMBERS = np.arange(6.0).reshape(3, 2)
PIXELS = np.zeros((4, 4), dtype=np.uint8)


@pytest.mark.parametrize(
    ("data", "plain"),
    [
        (NUMBERS, True),
        (NUMBERS.astype(object), True),
        (NUMBERS.tolist(), True),
        (pandas.DataFrame(NUMBERS), True),
        (pandas.DataFrame({"a": [True, False]}), True),
        (sparse.csr_matrix(NUMBERS), True),
        (np.where(NUMBERS == 3, np.nan, NUMBERS), False),
        (np.array([[1, "a"], [2, None]], dtype=object), False),
        (np.array([[1, pandas.NA]], dtype=object), False),
        ([[1, "a"], [2, "b"]], False),
        (pandas.DataFrame({"a": [1.0, None]}), False),
        (pandas.DataFrame({"a": pandas.Categorical([1, 2])}), False),
        (pandas.DataFrame({"a": pandas.to_datetime(["2020-01-01"])}), False),
        (["a text", "another"], False),
        (np.array(["a text", "another"]), False),
        ([Path("a.png")], False),
        ([Image.fromarray(PIXELS)], False),
        ([PIXELS, PIXELS], False),
        (np.stack([PIXELS, PIXELS]), False),
    ],
)
def test_numbers_without_a_gap_are_told_from_all_else(data: Any, plain: bool) -> None:
    assert plain_numbers(data) is plain


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (NUMBERS, "table"),
        ([[1, "a"], (2, None)], "table"),
        (pandas.DataFrame({("a", 1): [1]}), "table"),
        (["text", "x.png is a file"], "texts"),
        (pandas.Series(["text"], index=["r"]), "texts"),
        ([PIXELS], "images"),
        (np.stack([PIXELS, PIXELS]), "images"),
    ],
)
def test_kinds_of_data(data: Any, kind: str) -> None:
    found = data_of(data)
    assert found.kind == kind and len(found) == len(data)
    assert (found.index is not None) == isinstance(data, pandas.DataFrame | pandas.Series)


def test_the_column_of_labels_is_called_as_no_other() -> None:
    assert label_column(data_of(NUMBERS)) == "label"
    taken = pandas.DataFrame([[1] * 5], columns=["label", "labels", "label (given)", "label 2", "label 4"])
    assert label_column(data_of(taken)) == "label 3"


def test_folders_of_classes_keep_names_that_every_folder_can_have() -> None:
    found = class_folders(["cat", "a/b", "Dog", "dog", "..", "cat", "__MACOSX", "cat ", None])
    assert found["cat"] == "cat" and len(set(found.values())) == len(found) == 7
    odd = {name: folder for name, folder in found.items() if name != folder}
    assert set(odd) == {"a/b", "Dog", "dog", "..", "__MACOSX", "cat "}
    assert all(folder.startswith("class ") for folder in odd.values())


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("/x/in_memory.yaml:12: task.kind: is wrong", "task.kind: is wrong"),
        ("/x/in_memory.csv: target: there is only", "labels: there is only"),
        ("/x/in_memory.csv: file: column 'a': 1 of 4", "the data: column 'a': 1 of 4"),
        ("file: /x/in_memory.csv has no column", "the data has no column"),
        ("columns: in_memory.csv has no column 'a'", "columns: the data has no column 'a'"),
        ("--set task.x=1: unknown", "set: task.x=1: unknown"),
        ("left out: labelled/class 1/00000007.png, unlabelled/00000012.jpg", "left out: row 7, row 12"),
        ("few: 'class 1' 2", "few: 'a/b' 2"),
        (
            "column 'in_memory.csv.gz' and \"/x/in_memory.csvx\" stay",
            "column 'in_memory.csv.gz' and \"/x/in_memory.csvx\" stay",
        ),
    ],
)
def test_messages_about_files_become_messages_about_the_data(line: str, said: str) -> None:
    assert in_users_words(line, Path("/x/in_memory.csv"), Path("/x/in_memory.yaml"), {"class 1": "a/b"}) == said

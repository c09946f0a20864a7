"""The order of classes is one: by size or by alphabet, whatever the process's hash seed, and a number is one class however it
is written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from metaimpute.tasks import OwnTable, OwnText
from metaimpute.tasks.own_data import ordered
from metaimpute.tasks.readings import one_spelling

from .. import fake_data

CASES = {
    "spellings": (["1", "1.0", "2", "10", "2.00"], ["1", "2", "10"]),
    "codes": (["007", "7", "07", "8"], ["007", "07", "7", "8"]),
    "a word that floats": (["3", "nan", "1", "20", "2"], ["1", "2", "20", "3", "nan"]),
    "a word": (["b", "1", "1.0", "10", "a"], ["1", "1.0", "10", "a", "b"]),
    "signs": (["-0", "0", "+1", "1", "-1"], ["-1", "0", "1"]),
    "infinite": (["inf", "1", "-inf", "2"], ["-inf", "1", "2", "inf"]),
    "underscores": (["1_0", "10", "2_0"], ["10", "1_0", "2_0"]),
    "long": (["9007199254740993", "9007199254740992", "5"], ["5", "9007199254740992", "9007199254740993"]),
}
SCRIPT = """
import json, sys
from metaimpute.tasks import OwnTable, OwnText
found = []
for path in sys.argv[1:]:
    options = {"file": path, "missing_values": []}
    tasks = OwnText(**options), OwnTable(**options, target="label", kind="classes", ignore=["text"])
    found.append([(task.label_names, task.gather().fingerprint()) for task in tasks])
print(json.dumps(found))
"""


def table(folder: Path, name: str, labels: list[str]) -> Path:
    count = 4 * len(labels)
    rows = [
        {"text": f"text number {i}", "x": i * 7 % 13 / 3, "label": labels[i % len(labels)] if i < count else ""}
        for i in range(2 * count)
    ]
    return fake_data.write_csv(folder / f"{name}.csv", rows)


def test_classes_have_one_order_under_every_hash_seed(tmp_path: Path) -> None:
    files = [str(table(tmp_path, f"{number}", labels)) for number, (labels, _) in enumerate(CASES.values())]
    said = [
        subprocess.run(
            [sys.executable, "-c", SCRIPT, *files], env=os.environ | {"PYTHONHASHSEED": seed}, capture_output=True, text=True,
            check=True,
        ).stdout
        for seed in ("0", "1")
    ]  # fmt: skip
    assert len(set(said)) == 1
    for (_, expected), ((texts, _), (rows, _)) in zip(CASES.values(), json.loads(said[0]), strict=True):
        assert texts == rows == expected


@pytest.mark.parametrize("case", CASES)
def test_the_order_is_that_of_size_or_of_the_alphabet(case: str) -> None:
    labels, expected = CASES[case]
    for given in (labels, labels[::-1], sorted(labels)):
        assert ordered(one_spelling([*given, ""])) == expected
    plain = [label for label in labels if len(set(one_spelling([*labels, label]))) == len(labels)]
    assert one_spelling(plain) == plain, "labels written in one way stay as they are"


def test_a_label_written_in_two_ways_is_one_class_and_its_rows_are_of_it(tmp_path: Path) -> None:
    path = str(table(tmp_path, "t", ["1", "1.0", "2", "2"]))
    task = OwnTable(file=path, target="label", ignore=["text"], test_share=0)
    targets = task.load(0).labelled.targets
    assert targets is not None and task.label_names == ["1", "2"] and targets.bincount().tolist() == [8, 8]
    assert OwnText(file=path).label_names == ["1", "2"]
    floats = str(table(tmp_path, "f", ["0.0", "1.0"]))
    assert OwnText(file=floats).label_names == ["0.0", "1.0"], "as runs begun before have them"

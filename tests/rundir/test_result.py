"""The result of a run as a value: it reads files of other versions, and it is a mapping as well."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest

from metaimpute.rundir import layout
from metaimpute.rundir.result import Result
from metaimpute.rundir.stored import DamagedFile

from ..reporting.made import WHOLE, made, result_with


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    first = result_with(weights_sha256="ab", warnings=["late"])
    assert first.write(tmp_path) == tmp_path / layout.RESULT
    again = Result.read(tmp_path)
    assert again == first == pickle.loads(pickle.dumps(first)) and again.test_last == again["test_last"] == 20.0
    assert json.loads((tmp_path / layout.RESULT).read_text()) == dict(first)


def test_keys_of_older_and_of_later_versions(tmp_path: Path) -> None:
    folder = made(tmp_path / "run", of_later={"a": 1})
    found = Result.read(folder)
    assert found["of_later"] == {"a": 1} and found.extra == {"of_later": {"a": 1}} and "of_later" in found
    assert found.warnings is None and "warnings" not in found and found.get("weights_sha256") is None
    assert found.imports is None and found["imports"] is None and found.phase_seconds == {}
    assert set(WHOLE) <= set(found) and len(found) == len(list(found)) and {**found}["labels"] == 9
    with pytest.raises(KeyError, match="nothing"):
        found["nothing"]


def test_a_file_of_another_shape_names_the_key(tmp_path: Path) -> None:
    for number, (key, value) in enumerate({"seed": -1, "confusion": [[1], [2, 3]], "environment": {}}.items()):
        with pytest.raises(DamagedFile, match=f"is damaged: {key}"):
            Result.read(
                made(tmp_path / str(number), **{key: value}) if key != "seed" else made(tmp_path / "s", seed=-1)
            )


def test_a_run_is_told_by_its_recipe(tmp_path: Path) -> None:
    assert not layout.is_run(tmp_path) and layout.is_run(made(tmp_path / "run"))
    assert layout.is_replaced("metrics.jsonl.damaged") and layout.is_replaced("step-00000007.pt")
    assert not layout.is_replaced("mine.json") and not layout.is_replaced("step-best.pt")

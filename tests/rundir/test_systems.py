"""The systems of a run: every kind of member comes back from its file as it was, and nothing else does."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_iris, load_wine
from skops.io import dump

from metaimpute.ensemble.choice import candidates_on, choose, usable
from metaimpute.ensemble.measuring import Examples
from metaimpute.models.row_forms import INPUTS, Inputs
from metaimpute.models.small import MLP
from metaimpute.rundir.layout import MEMBERS, SYSTEMS
from metaimpute.rundir.stored import DamagedFile
from metaimpute.rundir.systems import Systems
from metaimpute.tasks.arrays import ArrayTask
from metaimpute.tasks.base import Pool

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def few_trees(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metaimpute.ensemble.members.TREES", 20)
    monkeypatch.setattr("metaimpute.ensemble.combination.NEGLIGIBLE", 0.0)  # every member is kept
    monkeypatch.setattr("metaimpute.ensemble.combination.HOPELESS", float("inf"))


def made(values: bool, wide: bool = False) -> tuple[Systems, Pool, Any]:
    X, y = (load_wine if wide else load_iris)(return_X_y=True)
    X = (X - X.mean(0)) / X.std(0)
    y = X[:, 0] * 2 + 1 if values else y
    given = np.random.default_rng(0).permutation(len(y))[:30]
    rest = np.setdiff1d(np.arange(len(y)), given)
    classes = 0 if values else 3
    examples = Examples({INPUTS: X[given]}, {INPUTS: X[rest]}, y[given], classes, 0)
    ensemble = choose(examples, candidates_on(INPUTS, usable(classes, len(given))))
    task = ArrayTask(inputs=torch.from_numpy(X))
    pool = Pool(torch.from_numpy(X[rest]), None, torch.arange(len(rest)))
    return Systems(ensemble, {INPUTS: Inputs(task)}), pool, task


@pytest.mark.parametrize("values", [False, True], ids=["classes", "values"])
@pytest.mark.parametrize("wide", [False, True], ids=["4 columns", "13 columns"])
def test_every_registered_member_comes_back_as_it_was(tmp_path: Path, values: bool, wide: bool) -> None:
    systems, pool, task = made(values, wide)
    systems.save(tmp_path)
    found = Systems.restore(tmp_path, task, MLP(), CPU)
    assert found is not None and set(found.ensemble.fitted) == set(usable(0 if values else 3, 30))
    np.testing.assert_array_equal(found.predict(pool, list), systems.predict(pool, list))
    assert found.ensemble.widths == systems.ensemble.widths and (found.ensemble.widths is not None) is values
    np.testing.assert_array_equal(found.ensemble.held_out, systems.ensemble.held_out)
    assert found.ensemble.expected == systems.ensemble.expected and found.ensemble.scores == systems.ensemble.scores


def test_a_run_without_systems_has_none(tmp_path: Path) -> None:
    assert Systems.restore(tmp_path, ArrayTask(), MLP(), CPU) is None


class Stranger:
    """No member."""


def test_a_file_with_other_types_is_refused_by_name(tmp_path: Path) -> None:
    systems, _, task = made(False)
    systems.save(tmp_path)
    dump({"members": {"kernel": Stranger()}, "forms": {}}, tmp_path / MEMBERS)
    with pytest.raises(DamagedFile, match=r"types that are not trusted: .*Stranger"):
        Systems.restore(tmp_path, task, MLP(), CPU)


@pytest.mark.parametrize("damage", ["cut", "gone", "no zip", "no weights", "another name", "no json"])
def test_a_damaged_file_is_told_in_one_line(tmp_path: Path, damage: str) -> None:
    systems, _, task = made(True)
    systems.save(tmp_path)
    members, known = tmp_path / MEMBERS, json.loads((tmp_path / SYSTEMS).read_text())
    if damage == "cut":
        members.write_bytes(members.read_bytes()[:1000])
    elif damage == "gone":
        members.unlink()
    elif damage == "no zip":
        members.write_text("{}")
    elif damage == "no weights":
        (tmp_path / SYSTEMS).write_text(json.dumps({k: v for k, v in known.items() if k != "weights"}))
    elif damage == "another name":
        (tmp_path / SYSTEMS).write_text(json.dumps(known | {"names": ["kernel", "unknown", *known["names"][2:]]}))
    else:
        (tmp_path / SYSTEMS).write_text("{")
    with pytest.raises((DamagedFile, FileNotFoundError)) as error:
        Systems.restore(tmp_path, task, MLP(), CPU)
    assert "\n" not in str(error.value) and (SYSTEMS in str(error.value) or MEMBERS in str(error.value))


def test_nothing_in_the_file_is_a_pickle(tmp_path: Path) -> None:
    systems, _, _ = made(False)
    systems.save(tmp_path)
    with zipfile.ZipFile(tmp_path / MEMBERS) as archive:
        names = archive.namelist()
    assert names and all(Path(name).suffix in (".json", ".npy", ".npz") for name in names)

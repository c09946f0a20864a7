"""Copies of labelled rows: those without label are shown beside them, and those with another label among what looks wrong."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import pytest

from metaimpute.inference import imputed
from metaimpute.review.alike import alike
from metaimpute.review.collect import Part, collect

from .own import QUICK, good

LABELLED = 24


def part(parts: list[Part], slug: str) -> Part:
    return next(one for one in parts if one.slug == slug)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows 24 and 25 hold what rows 0 and 1 do; rows 2 and 3 are copies of one another with different labels."""
    folder = tmp_path_factory.mktemp("copies")
    rows = [f"{(i * 37 % 60) / 10},{i % 7}" for i in range(60)]
    rows[24], rows[25], rows[3] = rows[0], rows[1], rows[2]
    labels = ["small" if float(row.split(",")[0]) < 3 else "large" for row in rows]
    labels[3] = {"small": "large", "large": "small"}[labels[2]]
    lines = [f"r{i},{row},{labels[i] if i < LABELLED else ''}" for i, row in enumerate(rows)]
    (folder / "t.csv").write_text("\n".join(["name,size,weight,y", *lines]) + "\n")
    good("init", "table", "t.csv", "--label", "y", "--set", "task.id=name", "--out", "r.yaml", at=folder)
    sets = [word for one in QUICK for word in ("--set", one)]
    good("run", "r.yaml", "--out", "run", *sets, at=folder)
    return folder / "run"


def test_a_row_without_label_is_shown_beside_its_labelled_copy(run: Path) -> None:
    made = imputed(run)
    found = part(collect(run).parts, "duplicates")
    pairs = {item.row.id: [row.id for row in item.beside] for item in found.items}
    assert pairs["r24"] == ["r0"] and pairs["r25"] == ["r1"]
    assert any("Rows without label that hold exactly what a labelled one holds: 2" in line for line in found.said)
    assert found.total >= 2
    labels = dict(zip(made.found.ids, made.found.labels, strict=True))
    for item in found.items[:2]:
        other = labels[item.row.id] != item.beside[0].label
        assert item.row.note == ("imputed otherwise than a labelled copy" if other else "a labelled copy")


def test_what_was_imputed_otherwise_than_its_copy_comes_first(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = importlib.import_module("metaimpute.review.collect")
    real = module._labels

    def turned(made: object) -> list[str]:
        found: list[str] = real(made)
        found[1] = "neither"
        return found

    monkeypatch.setattr(module, "_labels", turned)
    found = part(collect(run).parts, "duplicates")
    assert found.items[0].row.id == "r25" and found.items[0].row.note == "imputed otherwise than a labelled copy"
    assert any("imputed otherwise: 1." in line for line in found.said)


def test_copies_with_different_labels_look_wrong(run: Path) -> None:
    made = imputed(run)
    targets = made.data.labelled.targets
    assert targets is not None
    shares = np.where(np.eye(2)[targets.numpy()] == 1, 0.9, 0.1)
    found = part(collect(run, held_out=shares).parts, "suspects")
    assert any(
        "Labelled rows that hold exactly what another one with another label holds: 2." in line for line in found.said
    )
    torn = [item for item in found.items if item.beside]
    assert torn == part(collect(run).parts, "suspects").items, "nothing has to be held out to see it"
    assert [(item.row.id, [row.id for row in item.beside]) for item in torn] == [("r2", ["r3"])]


def test_a_quarter_of_the_rows_is_no_set_of_outliers() -> None:
    """Distances on two scales: rows that lie close together, and others that differ in many columns."""
    rng = np.random.default_rng(0)
    rows = np.concatenate([rng.normal(size=(150, 8)) * 0.01, rng.normal(size=(50, 8)) + 20])
    keys = [str(i) for i in range(200)]
    assert alike(rows, keys).outliers == []
    plain = rng.normal(size=(200, 8))
    plain[[3, 9]] += 60.0
    plain[9] += 500.0
    assert sorted(alike(plain, keys).outliers) == [3, 9]

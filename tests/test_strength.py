"""No shipped L2I recipe is its own control: what was measured of each, held against the recipes as they are."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from metaimpute.training.alarms import RESOLUTION, WEAK
from metaimpute.training.session import Session

ROOT = Path(__file__).parents[1]
FLOOR = 1e-2  # ten times what a run warns of


def _script() -> Any:
    spec = importlib.util.spec_from_file_location("strength", ROOT / "benchmarks" / "strength.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


strength = _script()
SYSTEMS = [
    one for one in strength.systems(ROOT / "recipes") if not one[0].startswith("own_")
]  # those have no data of their own
MEASURED = {(row["recipe"], tuple(row["set"])): row for row in json.loads(strength.RESULTS.read_text())}
assert FLOOR > WEAK


def name_of(system: Any) -> str:
    return " ".join([system[0], *system[2]])


@pytest.mark.parametrize("system", SYSTEMS, ids=name_of)
def test_every_l2i_recipe_has_a_hypergradient_that_matters(system: Any) -> None:
    name, path, sets, rows = system
    found = MEASURED.get((name, sets))
    again = f"measure it again: python benchmarks/strength.py {name}"
    assert found is not None, again
    assert found["settings"] == strength.settings(path, sets), again
    assert found["rows"] == rows, again
    assert found["measured"] >= 5
    if "label_change" in found:
        assert found["label_change"] > 100 * RESOLUTION
    else:
        assert found["ratio"] >= FLOOR


@pytest.mark.slow
@pytest.mark.parametrize("system", SYSTEMS, ids=name_of)
def test_no_recipes_run_is_told_that_its_hypergradient_does_nothing(system: Any, tmp_path: Path) -> None:
    _, path, sets, _ = system
    recipe = strength.chosen(path, sets)
    if recipe.missing():
        pytest.skip(f"{recipe.missing()[0].what} is not here")
    said: list[str] = []
    Session(recipe, tmp_path / "run", say=said.append).run()
    assert not [line for line in said if "hardly differs from the control" in line]

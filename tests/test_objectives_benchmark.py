"""Claims of the bilevel objectives: measured in pairs, gone on with where they ended, and said on the pages as measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

ROOT = Path(__file__).parents[1]
RESULTS = sorted((ROOT / "benchmarks" / "results" / "objectives").glob("*.json"))
OF_ERRORS = ("test_error",)


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT))
    import benchmarks.objectives.__main__ as found

    return found


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_a_result_has_its_seeds_machine_command_and_a_value_for_each(path: Path) -> None:
    row = json.loads(path.read_text())
    assert len(row["seeds"]) >= 5 and row["machine"] and path.stem in row["command"] and row["tuned"]
    assert all(len(values) == len(row["seeds"]) for arm in row["values"].values() for values in arm.values())
    assert len(row["mean"]) >= 2, "an objective and a control"


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_the_page_says_what_was_measured(path: Path) -> None:
    row, page = json.loads(path.read_text()), ROOT / "docs" / "objectives" / f"{path.stem}.md"
    if "| system |" not in page.read_text():
        pytest.skip("its page has a form of its own")
    lines = [line for line in page.read_text().splitlines() if line.startswith("|")]
    for arm, means in row["mean"].items():
        (line,) = [line for line in lines if line.split("|")[1].strip().strip("`") == arm]
        for name, mean in means.items():
            shown = f"{mean:.1f} ± {row['std'][arm][name]:.1f}" if name in OF_ERRORS else f"{mean:.3f} ± "
            assert shown in line
    assert ("**holds**" if row["holds"] else "**does not hold**") in page.read_text()


def test_seeds_that_were_measured_are_not_measured_again(runner: Any, tmp_path: Path, monkeypatch: Any) -> None:
    from benchmarks.objectives import hyper_cleaning
    from benchmarks.objectives.claim import Claim

    seen: list[int] = []

    def arm(seed: int) -> dict[str, float]:
        seen.append(seed)
        return {"test_error": float(seed)}

    claim = Claim("a paper", "low", {"mine": arm}, lambda mean: mean["mine"]["test_error"] < 1, "by hand")
    monkeypatch.setattr(hyper_cleaning, "CLAIM", claim)
    monkeypatch.setattr(runner, "RESULTS", tmp_path / "results")
    for seeds in ("2", "3"):
        done = CliRunner().invoke(runner.main, ["hyper_cleaning", "--seeds", seeds])
        assert done.exit_code == 0, done.output
    row = json.loads((tmp_path / "results" / "hyper_cleaning.json").read_text())
    assert seen == [0, 1, 2] == row["seeds"] and row["mean"] == {"mine": {"test_error": 1.0}} and not row["holds"]
    assert "no claim 'mine'; there are: " in CliRunner().invoke(runner.main, ["mine"]).output

"""The grid against other packages at toy size: which cells it measures, leaves out and calls behind. No timing is asserted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from metaimpute.bench import grid
from metaimpute.bench.hypergradient import accuracy, inner_rule, ours
from metaimpute.bench.peers import PEERS, installed
from metaimpute.bench.problems import build
from metaimpute.cli import main


def invoke(*arguments: str) -> Any:
    return CliRunner().invoke(main, ["bench", "hypergradient", "--grid", "peers", *arguments])


def row(system: str, steps: int, ratio: float | None, optimizer: str = "sgd") -> dict[str, Any]:
    costs = {"seconds": 1e-4 * steps, "ratio": ratio, "low": ratio, "high": ratio, "difference": 0.0}
    return {"model": "linear", "optimizer": optimizer, "steps": steps, "system": system, **costs}


def result(*rows: dict[str, Any]) -> dict[str, Any]:
    return {
        "benchmark": "peers",
        "batch": 16,
        "clock": "CPU time",
        "estimators": ["exact"],
        "rows": [*rows],
        "skipped": [],
    }


def test_a_restricted_grid_from_table_to_json_and_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(grid, "SHORTEST", 1e-3)
    out, picture = tmp_path / "r.json", tmp_path / "r.png"
    options = [
        "--model",
        "linear",
        "--optimizer",
        "sgd,adam",
        "--steps",
        "1,3",
        "--repeats",
        "1",
        "--threads",
        "1",
        "--batch",
        "4",
    ]
    done = invoke(*options, "--estimator", "exact,mixed", "--out", str(out), "--plot", str(picture))
    assert done.exit_code == 0, done.output
    found = json.loads(out.read_text())
    here = [name for name in grid.RIVALS if installed(name)]
    cells = grid.cells(found)
    assert set(cells) == {("linear", optimizer, k) for optimizer in ("sgd", "adam") for k in (1, 3)}
    for (_, optimizer, _), rows in cells.items():
        assert list(rows) == ["exact", "mixed", *here]
        assert rows["mixed"]["difference"] < (1e-4 if optimizer == "sgd" else 0.1)
        assert all(r["seconds"] > 0 and (r["ratio"] is None) == (not here) for r in rows.values())
    assert picture.stat().st_size > 5000 and found["machine"]["threads"] == 1 and found["clock"] == "CPU time"
    again = invoke(
        *options[:2], "--optimizer", "sgd", "--steps", "1", "--repeats", "1", "--threads", "1", "--before", str(out)
    )
    assert again.exit_code == 0 and "before" in again.output, again.output


def test_cells_that_would_take_too_long_or_too_much_are_left_out_with_the_reason() -> None:
    lines: list[str] = []
    found = grid.sweep(["linear"], ["sgd"], [1, 2, 10**7], peers=(), repeats=1, budget=5.0, say=lines.append)
    assert [r["steps"] for r in found["rows"]] == [1, 2] and len(lines) == 2
    assert found["skipped"][0]["steps"] == 10**7 and "above 5 s a cell" in found["skipped"][0]["why"]
    assert "above half" in str(grid.Cost(2, 1e-9, 2**30).refusal(64, 7, 60.0, 2**33))
    assert grid.Cost(2, 1e-9, 2**30).refusal(4, 7, 60.0, 2**33) is None
    assert grid.sentence(found).startswith("No other package")


def test_the_sentence_names_where_we_are_behind() -> None:
    cells = [row("exact", 1, 1.3), row("exact", 8, 0.9), row("exact", 32, 1.04), row("exact", 8, 1.2, "adam")]
    said = grid.sentence(result(*cells))
    assert (
        "in 1 of 4 cells, within 5% of it in 1 more, and behind in 2: linear sgd k = 1 (1.30), linear adam k = 8 (1.20)"
        in said
    )
    assert grid.sentence(result(row("exact", 8, 0.9))).endswith("behind in none.")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "linera"], "--model: unknown 'linera'; did you mean 'linear'"), (["--memory", "store"], "takes no --memory"),
        (["--optimizer", "adma"], "did you mean 'adam'"), (["--peers", "hihger"], "did you mean 'higher'"),
        (["--estimator", "exat", "--model", "linear"], "did you mean 'exact'"), (["--lr", "0.1"], "takes no --lr"),
    ],
)  # fmt: skip
def test_mistakes_end_in_one_line(arguments: list[str], message: str) -> None:
    done = invoke(*arguments)
    assert done.exit_code == 2 and message in done.stderr, done.output


def test_a_file_that_is_no_earlier_grid_is_refused(tmp_path: Path) -> None:
    other = tmp_path / "other.json"
    other.write_text('{"benchmark": "step"}')
    done = invoke("--before", str(other))
    assert done.exit_code == 2 and "no result of --grid peers" in done.stderr
    alone = CliRunner().invoke(main, ["bench", "hypergradient", "--budget", "3"])
    assert alone.exit_code == 2 and "--budget is for --grid peers" in alone.stderr


def test_every_rival_is_a_peer() -> None:
    assert set(grid.RIVALS) <= set(PEERS)


@pytest.mark.parametrize("peer", grid.RIVALS)
def test_the_gradient_through_adam_of_other_packages(peer: str) -> None:
    """TorchOpt's is ours to its place of eps; higher's is another rule's, with eps before the bias correction."""
    if not installed(peer):
        pytest.skip(f"{peer} is not installed")
    problem = build("linear", 4, torch.float64, "cpu")
    truth = ours(problem, inner_rule("adam", 0.001), 8, "exact", "store")()
    found = PEERS[peer](problem, "adam", 0.001, 8)()
    off = accuracy(found, truth)[0]
    assert off > 1e-2 if peer == "higher" else off < 1e-4

"""``bench precision``: rows for every precision, scaled losses that give the same gradient, and what is left out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from metaimpute.bench.precision import PRECISIONS, estimate, sweep
from metaimpute.bench.problems import build
from metaimpute.cli import main
from metaimpute.engine import adam, sgd


@pytest.mark.parametrize("estimator", ["exact", "mixed", "finite_difference"])
@pytest.mark.parametrize("rule", [sgd(0.05, momentum=0.9), adam(0.01)], ids=lambda rule: rule.label)
def test_a_scaled_loss_has_the_same_hypergradient(estimator: str, rule: object) -> None:
    problem = build("linear", 8, torch.float64, "cpu")
    plain, scaled = (estimate(problem, rule, 3, estimator, None, scale) for scale in (1.0, 2.0**12))  # type: ignore[arg-type]
    torch.testing.assert_close(scaled, plain, rtol=1e-6 if estimator == "finite_difference" else 1e-12, atol=1e-15)


def test_every_precision_is_held_against_float64() -> None:
    found = sweep(["linear"], steps=[2], estimators=["exact", "neumann(2)"], say=lambda line: None)
    rows = {(row["estimator"], row["precision"]): row for row in found["rows"]}
    assert set(rows) == {("exact", p) for p in PRECISIONS} | {
        ("neumann(2)", p) for p in PRECISIONS if "scaled" not in p
    }
    assert rows["exact", "float32"]["error"] < 1e-6
    assert 1e-5 < rows["exact", "float16"]["error"] < rows["exact", "bfloat16"]["error"] < 0.1
    assert all(row["finite"] and row["cosine"] > 0.99 for row in found["rows"])


def test_the_command_prints_a_table_and_writes_rows(tmp_path: Path) -> None:
    out = tmp_path / "rows.json"
    done = CliRunner().invoke(
        main, ["bench", "precision", "--model", "linear", "--steps", "1", "--estimator", "exact", "--out", str(out)]
    )
    assert done.exit_code == 0 and "bfloat16" in done.output
    assert len(json.loads(out.read_text())["rows"]) == len(PRECISIONS)
    wrong = CliRunner().invoke(main, ["bench", "precision", "--model", "lineal"])
    assert wrong.exit_code == 2 and "did you mean 'linear'" in wrong.output

"""``bench step --speed``: every way of carrying a step out beside the plain one, and what cannot run named."""

from __future__ import annotations

import pytest

from metaimpute.bench import speed
from metaimpute.bench.speed import sweep, table


def test_ways_are_measured_against_float32_and_low_precision_holds_less(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "steps_of", lambda method: [speed.Config(method, "l2i", "exact")])
    monkeypatch.setattr(speed, "require_compiler", lambda device: "compiled steps need a C++ compiler")
    found = sweep(
        [("mean_teacher", 1)], batch=4, repeats=1, side=16, ways=("float32", "bf16", "fused", "compiled"), say=lambda line: None
    )  # fmt: skip
    rows = {row["way"]: row for row in found["rows"]}
    assert set(rows) == {"float32", "bf16", "fused"} and rows["float32"]["ratio"] == 1.0
    assert rows["bf16"]["peak"] < 0.95 * rows["float32"]["peak"]
    assert found["skipped"][0]["why"] == "compiled steps need a C++ compiler"
    assert table(found).row_count == 1

"""Collects the results of run directories into one JSON file: ``python benchmarks/summary.py OUT.json RUN...``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

KEPT = (
    "recipe", "profile", "task", "source", "labels", "unlabelled", "test_examples", "model", "method", "problem", "estimator",
    "seed", "steps", "metric", "test_last", "test_median", "test_checkpoints", "test_measures", "validation_last",
    "lookahead_warning", "training_seconds", "environment",
)  # fmt: skip


def collect(folders: list[Path]) -> dict[str, Any]:
    """The results' main entries, sorted by labels, seed and system."""
    rows = []
    for folder in folders:
        result = json.loads((folder / "result.json").read_text())
        rows.append({key: result[key] for key in KEPT if key in result})
    rows.sort(key=lambda row: (row["labels"], row["seed"], row["method"], row["problem"]))
    return {"runs": rows}


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(json.dumps(collect([Path(name) for name in sys.argv[2:]]), indent=1) + "\n")

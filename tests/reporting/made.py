"""Run directories written by hand, so that pages can be tested without training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from metaimpute.rundir.result import Result

ENVIRONMENT = {
    "python": "3.11", "system": "Linux", "device": "cpu", "cores": 2, "threads": 1, "packages": {"torch": "2.9"},
    "command": "metaimpute run my.yaml",
}  # fmt: skip

WHOLE = {
    "recipe": "my.yaml", "title": "A title", "overrides": ["task.labels=9"], "profile": "sample", "profile_reason": "asked for",
    "task": "digits", "source": "digits", "labels": 9, "unlabelled": 90, "test_examples": 30, "model": "mlp",
    "method": "mean_teacher", "problem": "none", "estimator": None, "seed": 0, "steps": 40,
    "metric": "error %", "test_last": 20.0, "test_median": 20.0, "test_checkpoints": 1, "validation_last": 50.0,
    "test_measures": {}, "label_names": ["cat", "dog", "owl"], "confusion": [[8, 1, 1], [0, 10, 0], [5, 0, 5]],
    "calibration": {"ece": 0.125, "bins": [{"confidence": 0.5, "accuracy": 0.4, "count": 10},
                                           {"confidence": 0.9, "accuracy": 0.95, "count": 20}]},
    "training_seconds": 8.0, "lookahead_warning": False, "zero_hypergradient_warning": False, "environment": ENVIRONMENT,
}  # fmt: skip


def result_with(**values: Any) -> Result:
    """What a finished run of Mean Teacher on three classes says of itself, with other values for some of its keys."""
    return Result(**(WHOLE | values))


def made(
    folder: Path, *, problem: str = "none", seed: int = 0, error: float | None = 20.0, metrics: dict[str, Any] | None = None,
    settings: dict[str, Any] | None = None, steps: int = 40, **result: Any,
) -> Path:  # fmt: skip
    """A finished run of Mean Teacher on three classes.

    Args:
        metrics: further measurements by name, each a function of the step or a constant. settings: of the resolved recipe.
    """
    folder.mkdir(parents=True)
    learns = problem != "none"
    curves = {"loss": lambda step: 2.0 / step, "mask_rate": 0.5, "imputed_accuracy": lambda step: step / 50, "lr": 0.1}
    if learns:
        curves |= {"base_gradient_norm": 1.0, "hypergradient_norm": lambda step: step / 9, "cosine": 0.1,
                   "holdout_before": 1.0, "holdout_after": 0.9}  # fmt: skip
    curves |= metrics or {}
    lines = [
        {"step": step} | {name: value(step) if callable(value) else value for name, value in curves.items()}
        for step in range(10, steps + 1, 10)
    ]
    lines += [{"step": step, "validation_error": 90.0 - step} for step in (20, 40)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    recipe = {
        "task": {"name": result.get("task", "digits")},
        "problem": {"name": problem, "inner": {"lr": 0.1}},
        "train": {"seed": seed},
        **(settings or {}),
    }
    (folder / "recipe.resolved.yaml").write_text(yaml.safe_dump(recipe))
    own = {"problem": problem, "estimator": "exact" if learns else None, "seed": seed, "steps": steps,
           "test_last": error, "test_median": error}  # fmt: skip
    (folder / "result.json").write_text(json.dumps(WHOLE | own | result))
    return folder

"""What a finished run says of itself: its outcome, with everything needed to repeat it."""

from __future__ import annotations

import dataclasses
import math
import statistics
from typing import Any

import torch
from torch import Tensor

from ..batches.outputs import Classes, Output
from ..ensemble.choice import Scored
from ..environment import Environment, describe
from ..plugins import imported
from ..rundir.measure import MEASURE
from ..rundir.result import Result
from ..rundir.systems import Systems
from .choosing import combined_raw
from .evaluation import error_interval, measures_of, one_class_for_all, outcome_of
from .state import RunState


def final_raw(run: RunState, systems: Systems | None = None) -> Tensor:
    """Outputs ``[n, outputs]`` for the test pool, of the network or of the systems combined with it."""
    test = run.data.test
    if not len(test):
        return torch.zeros(0, run.task.output.size, device="cpu")
    return run.raw(test) if systems is None else combined_raw(systems, run.raw, test, run.task.output)


def summary_of(run: RunState, why: str, raw: Tensor, systems: Systems | None = None) -> Result:
    """A run's result as far as it has come.

    Args:
        why: its profile was chosen. raw: of :func:`final_raw`. systems: combined with the network, whose labels are those that a
            run gives then.
    """
    recipe, test = run.recipe, run.data.test
    tested = [e["test_error"] for e in run.evaluations if "test_error" in e]
    validated = [e["validation_error"] for e in run.evaluations if "validation_error" in e]
    measured = _test_measures(run.evaluations)
    ended = outcome_of(raw, run.task, test)
    if systems is not None:
        ended |= estimates(systems, run.task.output)
        if len(test):
            found = measures_of(raw, run.task, test)
            tested, measured = [found.pop("error")], {name: {"last": v, "median": v} for name, v in found.items()}
    doubts = one_class_for_all(ended, run.task.label_names)
    for line in doubts:
        run.say(f"warning: {line}")
    return Result(
        recipe=recipe.path,
        title=recipe.about.title,
        overrides=recipe.about.overrides,
        profile=recipe.profile,
        profile_reason=why,
        task=recipe.task.name,
        source=run.data.source,
        labels=len(run.data.labelled),
        unlabelled=len(run.data.unlabelled),
        test_examples=len(run.data.test),
        model=recipe.model.name,
        method=recipe.method.name,
        problem=recipe.problem.name,
        estimator=recipe.estimator.name if recipe.problem.estimates else None,
        backend=recipe.problem_spec.backend,
        seed=recipe.train.seed,
        steps=run.step,
        metric=recipe.task.output.metric,
        test_last=tested[-1] if tested else None,
        test_median=statistics.median(tested) if tested else None,
        test_checkpoints=len(tested),
        validation_last=validated[-1] if validated else None,
        measure=MEASURE,
        test_interval=error_interval(raw, run.task, test),
        test_measures=measured,
        label_names=run.task.label_names,
        data_fingerprint=run.data.fingerprint,
        imports=imported(),
        **ended,
        evaluations=run.evaluations,
        lookahead_warning=run.alarms.raised,
        zero_hypergradient_warning=run.alarms.zero,
        warnings=[
            *run.data.warnings,
            *(text.removeprefix("warning: ") for text in run.alarms.said),
            *doubts,
        ],
        training_seconds=round(run.seconds, 2),
        phase_seconds={name: round(value, 3) for name, value in run.algorithm.stopwatch.seconds.items()},
        environment=described(run),
    )


def described(run: RunState) -> Environment:
    """What the run was measured on."""
    found, count = describe(run.device), run.processes.size
    if count > 1:
        found["processes"] = count
    return found


def estimates(systems: Systems, output: Output) -> dict[str, Any]:
    """``expected``, ``candidates`` and ``left_out`` of a result: errors in percent, or in the value's own unit."""
    unit = 100.0 if isinstance(output, Classes) else float(output.std[0])  # type: ignore[attr-defined]  # of one value

    def plain(one: Scored) -> dict[str, Any]:
        found = dataclasses.asdict(one.times(unit))
        return {key: None if isinstance(v, float) and not math.isfinite(v) else v for key, v in found.items()}

    ensemble = systems.ensemble
    return {
        "expected": plain(ensemble.expected),
        "candidates": [plain(one) for one in ensemble.scores],
        "left_out": dict(ensemble.left_out),
    }


def _test_measures(evaluations: list[dict[str, float]]) -> dict[str, dict[str, float]]:
    """What the task measures on the test set beside its error, e.g. ``failure_rate``: last and median, as for the error."""
    found: dict[str, list[float]] = {}
    for evaluation in evaluations:
        for key, value in evaluation.items():
            if key.startswith("test_") and key != "test_error":
                found.setdefault(key.removeprefix("test_"), []).append(value)
    return {name: {"last": values[-1], "median": statistics.median(values)} for name, values in found.items()}

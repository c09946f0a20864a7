"""What a finished run says of itself: its outcome, with everything needed to repeat it."""

from __future__ import annotations

import statistics

from ..environment import describe
from ..plugins import imported
from ..rundir.result import Result
from .evaluation import one_class_for_all, outcome
from .state import RunState


def summary_of(run: RunState, why: str) -> Result:
    """A run's result as far as it has come. ``why``: its profile was chosen."""
    recipe = run.recipe
    tested = [e["test_error"] for e in run.evaluations if "test_error" in e]
    validated = [e["validation_error"] for e in run.evaluations if "validation_error" in e]
    ended = outcome(run.evaluated_module(), run.task, run.data.test, recipe.train.eval_batch, run.device)
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
        test_measures=_test_measures(run.evaluations),
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
        environment=describe(run.device),
    )


def _test_measures(evaluations: list[dict[str, float]]) -> dict[str, dict[str, float]]:
    """What the task measures on the test set beside its error, e.g. ``failure_rate``: last and median, as for the error."""
    found: dict[str, list[float]] = {}
    for evaluation in evaluations:
        for key, value in evaluation.items():
            if key.startswith("test_") and key != "test_error":
                found.setdefault(key.removeprefix("test_"), []).append(value)
    return {name: {"last": values[-1], "median": statistics.median(values)} for name, values in found.items()}

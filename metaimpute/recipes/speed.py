"""What ``train.precision`` and ``train.compile`` do not go with, each in a sentence, before anything is loaded."""

from __future__ import annotations

from ..engine import Estimator
from ..problems import BilevelProblem
from .schema import ProblemSpec, TrainSpec
from .source import Source

DIFFERENCES = ("finite_difference", "es")
OF_THE_HESSIAN = ("neumann", "cg")


def check_speed(
    source: Source, train: TrainSpec, problem: BilevelProblem, spec: ProblemSpec, estimator: Estimator
) -> None:
    """Raises:
    RecipeError: for a combination that would be wrong, or not what it says."""
    reason = _not_in_precision(train, spec, estimator) if problem.estimates else None
    if reason is not None:
        raise source.fail(("train", "precision"), reason)
    reason = _not_compiled(spec, estimator) if train.compile and problem.learns != "nothing" else None
    if reason is not None:
        raise source.fail(("train", "compile"), reason)


def _not_in_precision(train: TrainSpec, spec: ProblemSpec, estimator: Estimator) -> str | None:
    precision, name = train.precision, estimator.name
    if precision == "float32":
        return None
    if name in DIFFERENCES:
        return (
            f"'{name}' takes differences of numbers that agree in most of the digits that {precision} has; take exact or mixed, "
            "or float32"
        )
    if name in OF_THE_HESSIAN and precision == "fp16":
        return f"'{name}' would need the scale of fp16's losses in its Hessian; take exact or mixed, or bf16"
    if spec.backend == "higher":
        return f"backend 'higher' has not been held to its tolerance in {precision}; leave backend out, or take float32"
    return None


def _not_compiled(spec: ProblemSpec, estimator: Estimator) -> str | None:
    if spec.schedule == "fused":
        return "a fused step carries running statistics in its look-ahead, which a compiled one cannot; take algorithm1"
    if spec.backend == "higher":
        return "backend 'higher' steps the module itself, which cannot be compiled; leave backend out"
    if spec.memory.startswith("auto") and estimator.unrolls:
        return "memory 'auto' cannot measure inside a compiled step; take store, checkpoint(n) or recompute"
    return None

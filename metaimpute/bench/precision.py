"""What low precision does to each estimator: autocast against the same estimator in float64."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from rich.table import Table
from torch import Tensor

from ..engine import EstimatorError, InnerOptimizer, hypergradient
from ..engine.losses import Loss
from ..terminal import cell
from .hypergradient import accuracy, inner_rule
from .measure import machine
from .problems import WeightedExamples, build

ESTIMATORS = ("exact", "mixed", "truncated(1)", "finite_difference", "neumann(5)", "cg(5)")
OF_THE_HESSIAN = ("neumann", "cg")
SCALE = 2.0**12  # of losses in float16, as a GradScaler would settle at
PRECISIONS: dict[str, tuple[torch.dtype | None, float]] = {
    "float32": (None, 1.0),
    "bfloat16": (torch.bfloat16, 1.0),
    "float16": (torch.float16, 1.0),
    "float16, scaled": (torch.float16, SCALE),
}


def in_precision(loss: Loss, lower: torch.dtype | None, device: str) -> Loss:
    """A loss under autocast."""

    def lowered(theta: Any, c: Any, batch: Any) -> Tensor:
        with torch.autocast(device, dtype=lower, enabled=lower is not None):
            found: Tensor = loss(theta, c, batch)
        return found.float() if lower is not None else found

    return lowered


def estimate(
    problem: WeightedExamples, rule: InnerOptimizer, steps: int, estimator: str, lower: torch.dtype | None, scale: float
) -> Tensor:
    """The hypergradient of the example weights with both losses in a precision."""
    device = problem.inputs.device.type
    inner, outer = (in_precision(loss, lower, device) for loss in (problem.inner, problem.outer))
    found = hypergradient(
        inner, outer, problem.model.params, problem.weights, problem.batches, rule, estimator,
        steps=steps, seed=0, wrt_start=False, loss_scale=scale,
    )  # fmt: skip
    weights: Tensor = found.grad_c
    return weights


def sweep(
    models: Sequence[str],
    *,
    steps: Sequence[int],
    estimators: Sequence[str] = ESTIMATORS,
    batch: int = 16,
    optimizer: str = "sgd",
    lr: float = 0.05,
    device: str = "cpu",
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Rows of relative error and cosine, each against the same estimator in float64 without autocast.

    Raises:
        BenchError: for a model that cannot be set up. UnknownName, EstimatorError: for a wrong estimator.
    """
    rule, rows, skipped = inner_rule(optimizer, lr), list[dict[str, Any]](), list[dict[str, Any]]()
    for name in models:
        whole, usual = (build(name, batch, dtype, device) for dtype in (torch.float64, torch.float32))
        for k in steps:
            say(f"{name}, k = {k}")
            for estimator in estimators:
                try:
                    truth = estimate(whole, rule, k, estimator, None, 1.0).cpu()
                except EstimatorError as error:
                    skipped.append({"system": f"{name}, {estimator}", "steps": k, "why": str(error)})
                    continue
                for precision, (lower, scale) in PRECISIONS.items():
                    if scale != 1.0 and estimator.startswith(OF_THE_HESSIAN):
                        continue  # which is scaled with the loss, and the step of a series with it
                    try:
                        found = estimate(usual, rule, k, estimator, lower, scale)
                    except (EstimatorError, RuntimeError) as failed:
                        why = str(failed).split("\n", 1)[0]
                        skipped.append({"system": f"{name}, {estimator}, {precision}", "steps": k, "why": why})
                        continue
                    off, cosine = accuracy(found, truth)
                    rows.append({
                        "model": name, "steps": k, "estimator": estimator, "precision": precision,
                        "error": off, "cosine": cosine, "finite": bool(found.isfinite().all()),
                    })  # fmt: skip
    return {
        "benchmark": "precision", "batch": batch, "optimizer": optimizer, "lr": lr, "scale": SCALE,
        "machine": machine(device), "rows": rows, "skipped": skipped,
    }  # fmt: skip


def table(result: dict[str, Any]) -> Table:
    """A line for each estimator, a column for each precision: relative error, and cosine where it is below 0.999."""
    view = Table(title="relative error (cosine) against the same estimator in float64", title_justify="left")
    for column in ("model", "k", "estimator", *PRECISIONS):
        view.add_column(column, justify="left" if column in ("model", "estimator") else "right")
    found = {(r["model"], r["steps"], r["estimator"], r["precision"]): r for r in result["rows"]}
    for model, steps, estimator in dict.fromkeys(key[:3] for key in found):
        cells = [shown(found.get((model, steps, estimator, precision))) for precision in PRECISIONS]
        view.add_row(cell(model), str(steps), cell(estimator), *cells)
    return view


def shown(row: dict[str, Any] | None) -> str:
    if row is None:
        return "-"
    if not row["finite"]:
        return "not finite"
    return f"{row['error']:.1e}" + ("" if row["cosine"] > 0.999 else f" ({row['cosine']:.3f})")

"""What a step of a method does, and of L2I on top of it: its passes, their time on a card, and the memory they take."""

from __future__ import annotations

import json
from pathlib import Path

from .assumed import ASSUMED, HIGH, Card
from .counts import Network

RESULTS = Path(__file__).parents[1] / "results"
Passes = list[tuple[str, int]]  # "train" forward and backward, "infer" forward alone; rows


def method_passes(method: str, labelled: int, unlabelled: int) -> Passes:
    """Passes of a base method's step."""
    both: Passes = [("train", labelled + unlabelled)]
    return {
        "supervised": [("train", labelled)],
        "pi_model": [*both, ("infer", unlabelled)],
        "pseudo_label": both,
        "mixup": [*both, ("infer", unlabelled)],
        "vat": [*both, ("infer", unlabelled), ("train", unlabelled)],
        "mean_teacher": [*both, ("infer", unlabelled)],
        "mixmatch": [("infer", 2 * unlabelled), ("train", labelled + 2 * unlabelled)],
        "fixmatch": [*both, ("infer", unlabelled)],
        "uda": [*both, ("infer", unlabelled)],
    }[method]


def added_passes(estimator: str, views: int, unlabelled: int, holdout: int) -> Passes:
    """What L2I adds in the released form, whose inner loss is C_U alone. ``views``: of each unlabelled example that psi takes."""
    psi: Passes = [("train", views * unlabelled)]
    if estimator == "approx":
        return [*psi, ("infer", unlabelled), ("infer", holdout)]
    return [
        *psi,
        ("train", unlabelled),
        ("train", holdout),
        ("train", unlabelled),
    ]  # the last for a pass on dual numbers


def units(passes: Passes) -> int:
    """In forward passes of a row."""
    return sum((3 if kind == "train" else 1) * rows for kind, rows in passes)


def overhead() -> dict[str, list[float]]:
    """Measured time of L2I's steps over what their passes say, by the estimator: the range over both methods."""
    found: dict[str, list[float]] = {}
    for row in json.loads((RESULTS / "step.json").read_text())["rows"]:
        if row["inner"] == "unlabelled" and row["limit"]:
            of = found.setdefault(row["estimator"], [1.0, 1.0])
            of[HIGH] = max(of[HIGH], row["wall"] / row["limit"])
    return found


def peaks() -> dict[str, float]:
    """Measured peak of L2I's steps over the base method's, the larger of both."""
    rows = json.loads((RESULTS / "step.json").read_text())["rows"]
    found: dict[str, float] = {}
    for row in rows:
        if row["inner"] == "unlabelled":
            found[row["estimator"]] = max(found.get(row["estimator"], 1.0), row["peak_ratio"])
    return found


def seconds_of(network: Network, passes: Passes, card: Card, end: int) -> float:
    """Of a step: its passes, and the optimiser's traffic of five numbers a parameter."""
    share, launch = ASSUMED["share"]["value"][end], ASSUMED["launch"]["value"][end]
    flops, bandwidth = share * (card.tf32 if network.tf32 else card.float32), share * card.bandwidth
    of_passes = sum(network.run(rows, kind == "train").seconds(launch, flops, bandwidth) for kind, rows in passes)
    return of_passes + 20 * network.parameters / bandwidth


def memory_of(network: Network, passes: Passes, ratio: float, adam: bool, end: int) -> float:
    """Bytes: parameters, gradient, the optimiser's numbers, an average, and what the largest pass keeps times ``ratio``."""
    states = 4 * network.parameters * (3 + (2 if adam else 1))
    kept = max(network.run(rows, True).kept for kind, rows in passes if kind == "train")
    return float(ASSUMED["context"]["value"] + ASSUMED["memory"]["value"][end] * (states + ratio * kept))

"""The exact hypergradient here and in other packages, cell by cell: models x optimisers x numbers of inner steps."""

from __future__ import annotations

import itertools
import math
import os
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.table import Table
from torch import Tensor

from ..progress import counted
from ..terminal import cell
from .hypergradient import inner_rule, ours
from .measure import Clock, Work, machine, paired_times, peak_bytes, ratio, seconds
from .peers import PEERS, installed
from .problems import WeightedExamples, build

MODELS = ("linear", "mlp", "cnn", "transformer", "wrn")
RATES = {"sgd": 0.05, "momentum": 0.05, "adam": 0.001}
STEPS = (1, 8, 32, 1000)
RIVALS = ("higher", "torchopt")
LEVEL = 1.05  # as fast, within what a shared machine lets one tell apart
SHORTEST = 0.05  # seconds of one timing; quicker work is repeated within it


@dataclass
class Row:
    """One system in one cell.

    Attributes:
        seconds: median of a call. ratio, low, high: to the fastest other package of the cell, the median of timings taken in
            turn, and their range; None where there is none.
        difference: of its gradient from our exact one, relative; None where it is not finite.
    """

    model: str
    optimizer: str
    steps: int
    system: str
    seconds: float
    ratio: float | None
    low: float | None
    high: float | None
    difference: float | None


@dataclass
class Cost:
    """What the last cell of a model and optimiser took: one call of every system together, and the most bytes alive."""

    steps: int
    seconds: float
    peak: int

    def refusal(self, steps: int, repeats: int, budget: float, memory: float) -> str | None:
        """Why a cell of more steps is left out, as both grow with the number of steps; None where it is not."""
        times = steps / self.steps
        if self.seconds * times * (repeats + 1) > budget:
            return f"would take {self.seconds * times * (repeats + 1):,.0f} s, above {budget:,.0f} s a cell"
        if self.peak * times > memory:
            return f"would need {self.peak * times / 2**30:.1f} GiB, above half of this machine's memory"
        return None


def systems_of(
    problem: WeightedExamples, optimizer: str, steps: int, estimators: Iterable[str], peers: Iterable[str]
) -> dict[str, Callable[[], Tensor]]:
    """One call of each system by its name."""
    lr = RATES[optimizer]
    works = {name: ours(problem, inner_rule(optimizer, lr), steps, name, "store") for name in estimators}
    return works | {name: PEERS[name](problem, optimizer, lr, steps) for name in peers}


def _repeated(work: Work, times: int) -> Work:
    def repeat() -> None:
        for _ in range(times):
            work()

    return repeat


def measured(
    works: dict[str, Callable[[], Tensor]], peers: Sequence[str], repeats: int, key: tuple[str, str, int], clock: Clock
) -> tuple[list[Row], float]:
    """The rows of a cell, and the seconds of one call of every system together."""
    found = {name: work().detach() for name, work in works.items()}
    once = {name: seconds(work, clock) for name, work in works.items()}
    calls = {name: max(1, round(SHORTEST / t)) for name, t in once.items()}
    times = paired_times({name: _repeated(work, calls[name]) for name, work in works.items()}, repeats, clock)
    times = {name: [t / calls[name] for t in taken] for name, taken in times.items()}
    truth = next(iter(found.values()))
    fastest = min(peers, key=lambda name: statistics.median(times[name]), default=None)
    rows = []
    for name, taken in times.items():
        middle, low, high = (None, None, None) if fastest is None else ratio(taken, times[fastest])
        off = float((found[name] - truth).norm() / truth.norm().clamp_min(1e-30))
        difference = off if math.isfinite(off) else None
        rows.append(Row(*key, name, statistics.median(taken), middle, low, high, difference))
    return rows, sum(once.values())


def sweep(
    models: Iterable[str] = MODELS,
    optimizers: Iterable[str] = tuple(RATES),
    steps: Iterable[int] = STEPS,
    *,
    estimators: Sequence[str] = ("exact",),
    peers: Iterable[str] = RIVALS,
    batch: int = 16,
    repeats: int = 7,
    budget: float = 60.0,
    device: str = "cpu",
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Measures every cell.

    On one thread of the CPU the process's own time is taken, else the wall's.

    Args:
        estimators: ours, with memory ``store``; the first is what the table and the sentence are about.
        budget: seconds that a cell may take, as told by the cell of fewer steps; longer ones are left out.

    Raises:
        BenchError: for a model that cannot be set up. UnknownName, EstimatorError: for a wrong name.
    """
    alone = device == "cpu" and torch.get_num_threads() == 1
    clock = time.process_time if alone else time.perf_counter
    memory = 0.5 * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    wanted, rows, skipped = list(peers), [], []
    skipped += [{"system": name, "steps": 0, "why": "not installed"} for name in wanted if not installed(name)]
    others = [name for name in wanted if installed(name)]
    pairs = list(itertools.product(models, optimizers))
    for model, optimizer in counted(pairs, "models and optimizers", len(pairs)):
        problem = build(model, batch, torch.float32, device)
        cost: Cost | None = None
        for k in sorted(steps):
            why = cost.refusal(k, repeats, budget, memory) if cost else None
            if why is not None:
                skipped.append({"system": f"{model} / {optimizer}", "steps": k, "why": why})
                continue
            works = systems_of(problem, optimizer, k, estimators, others)
            found, once = measured(works, others, repeats, (model, optimizer, k), clock)
            rows += [asdict(row) for row in found]
            cost = Cost(k, once, peak_bytes(works[estimators[0]]) if k < max(steps) else 0)
            say(f"{model}, {optimizer}, k = {k}: {_told(found)}")
    return {
        "benchmark": "peers",
        "batch": batch,
        "repeats": repeats,
        "clock": "CPU time" if alone else "wall time",
        "estimators": list(estimators),
        "machine": machine(device),
        "rows": rows,
        "skipped": skipped,
    }


def _told(rows: list[Row]) -> str:
    return ", ".join(f"{row.system} {1e6 * row.seconds / row.steps:,.0f} us a step" for row in rows)


def cells(result: dict[str, Any]) -> dict[tuple[str, str, int], dict[str, dict[str, Any]]]:
    """Rows by cell and system."""
    found: dict[tuple[str, str, int], dict[str, dict[str, Any]]] = {}
    for row in result["rows"]:
        found.setdefault((row["model"], row["optimizer"], row["steps"]), {})[row["system"]] = row
    return found


def ratios(result: dict[str, Any]) -> dict[tuple[str, str, int], float]:
    """Our first estimator's ratio to the fastest other package, where a cell has one."""
    name = result["estimators"][0]
    return {key: rows[name]["ratio"] for key, rows in cells(result).items() if rows[name]["ratio"] is not None}


def table(result: dict[str, Any], before: dict[str, Any] | None = None) -> Table:
    """Microseconds an inner step of every system, and our ratio to the fastest other package with its range."""
    systems = list(dict.fromkeys(row["system"] for row in result["rows"]))
    name, earlier = result["estimators"][0], ratios(before) if before else {}
    title = (
        f"us of {result['clock']} an inner step, batch {result['batch']}; {name} in units of the fastest other package, median "
        "and range"
    )
    view = Table(title=cell(title), title_justify="left")
    view.add_column("model")
    view.add_column("optimizer")
    for column in ("k", *systems, name, "range", *(["before"] if before else [])):
        view.add_column(cell(column), justify="right")
    for (model, optimizer, k), rows in cells(result).items():
        own = rows[name]
        taken = [f"{1e6 * rows[s]['seconds'] / k:,.0f}" if s in rows else "-" for s in systems]
        against = ["-", "-"]
        if own["ratio"] is not None:
            against = [f"{own['ratio']:.2f}", f"{own['low']:.2f}-{own['high']:.2f}"]
        was = earlier.get((model, optimizer, k))
        view.add_row(model, optimizer, str(k), *taken, *against, *([f"{was:.2f}" if was else "-"] if before else []))
    return view


def sentence(result: dict[str, Any]) -> str:
    """Where we are behind, in one sentence."""
    found, name = ratios(result), result["estimators"][0]
    if not found:
        return "No other package is installed to compare with."
    ahead = sum(value < 1 for value in found.values())
    level = sum(1 <= value <= LEVEL for value in found.values())
    behind = sorted(((value, key) for key, value in found.items() if value > LEVEL), reverse=True)
    where = ", ".join(f"{m} {o} k = {k} ({value:.2f})" for value, (m, o, k) in behind)
    return (
        f"'{name}' is ahead of the fastest other package in {ahead} of {len(found)} cells, within {LEVEL - 1:.0%} of it in "
        f"{level} more, and behind in {f'{len(behind)}: {where}' if behind else 'none'}."
    )


def plot(result: dict[str, Any], path: Path, before: dict[str, Any] | None = None) -> None:
    """A panel for each model: our ratio to the fastest other package in every cell, with its range; hollow: before."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    found, earlier, name = cells(result), ratios(before) if before else {}, result["estimators"][0]
    shown = {key: rows[name] for key, rows in found.items() if rows[name]["ratio"] is not None}
    models = list(dict.fromkeys(model for model, _, _ in shown))
    lengths = [sum(key[0] == model for key in shown) for model in models]
    figure, axes = plt.subplots(
        1, max(1, len(models)), figsize=(3.2 * len(models) + 0.6, 1.4 + 0.22 * max(lengths, default=1)), squeeze=False,
        layout="constrained", sharex=True,
    )  # fmt: skip
    for ax, model in zip(axes[0], models, strict=False):
        own = [(key, row) for key, row in shown.items() if key[0] == model]
        ax.axvspan(0, LEVEL, color="0.93", zorder=0)
        ax.axvline(1.0, color="C3", linewidth=1, zorder=1)
        for place, (key, row) in enumerate(own):
            ax.plot([row["low"], row["high"]], [place, place], color="C0", linewidth=2, alpha=0.35, zorder=2)
            ax.scatter(row["ratio"], place, s=24, color="C0", zorder=3)
            if key in earlier:
                ax.scatter(earlier[key], place, s=24, facecolors="none", edgecolors="0.45", zorder=3)
        ax.set_yticks(range(len(own)), [f"{o}, k = {k}" for (_, o, k), _ in own], fontsize=7)
        ax.set_ylim(len(own) - 0.5, -0.5)
        ax.set_title(model, fontsize=10)
        ax.spines[["top", "right"]].set_visible(False)
        ax.tick_params(axis="x", labelsize=8)
    high = max([1.6, *(row["ratio"] for row in shown.values()), *earlier.values()])
    axes[0][0].set_xlim(0.5, high + 0.1)
    hollow = "; hollow: before" if before else ""
    figure.suptitle(
        f"{name} / store, {result['clock']} in units of the fastest of {', '.join(_rivals(result))} (red line); "
        f"median and range{hollow}",
        fontsize=9,
    )
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _rivals(result: dict[str, Any]) -> list[str]:
    return [name for name in dict.fromkeys(row["system"] for row in result["rows"]) if name in PEERS]


__all__ = ["MODELS", "RATES", "RIVALS", "STEPS", "Row", "cells", "plot", "ratios", "sentence", "sweep", "table"]

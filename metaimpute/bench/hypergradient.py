"""Hypergradient cost against accuracy: estimators x memory policies x number of inner steps, on one model."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from rich.table import Table
from torch import Tensor

from ..engine import (
    BadMemoryPolicy,
    CannotCompile,
    Compiled,
    EstimatorError,
    InnerOptimizer,
    get_estimator,
    hypergradient,
    optimizers,
    parse_memory,
    unroll,
)
from ..progress import counted
from ..terminal import cell
from .measure import flops, machine, paired_times, peak_bytes, ratio
from .peers import PEERS, installed
from .problems import WeightedExamples, build

ESTIMATORS = ("exact", "mixed", "truncated(1)", "finite_difference", "neumann(5)", "cg(5)", "first_order", "head")
OURS = ("func", "compiled")
MEMORIES = ("store", "recompute", "checkpoint(4)", "revolve(4)")


@dataclass
class Row:
    """One measured configuration.

    Attributes:
        wall: median ratio to k plain steps and its range. flops: ratio of counted operations. peak: bytes, and as a ratio to
            the plain steps'; None for a compiled step, which torch does not look into.
        error: relative error against the float64 exact gradient. cosine: with it.
    """

    system: str
    backend: str
    estimator: str
    memory: str
    steps: int
    wall: float
    wall_low: float
    wall_high: float
    flops: float | None
    peak: int | None
    peak_ratio: float | None
    error: float
    cosine: float
    note: str = ""


def inner_rule(name: str, lr: float) -> InnerOptimizer:
    return optimizers.get(name)(lr)


def plain_steps(problem: WeightedExamples, rule: InnerOptimizer, steps: int) -> Callable[[], Any]:
    """k training steps without any differentiation through them: the unit of cost."""
    params, weights = dict(problem.model.params), problem.weights

    def work() -> Any:
        return unroll(problem.inner, params, weights, [None], rule, steps, differentiable=False).params

    return work


def ours(
    problem: WeightedExamples, rule: InnerOptimizer, steps: int, estimator: str, memory: str, backend: str = "func"
) -> Callable[[], Tensor]:
    """The hypergradient of the example weights by an estimator of the engine."""
    compiled = backend == "compiled"
    chosen, policy = get_estimator(estimator, "func" if compiled else backend), parse_memory(memory)
    inner, outer = problem.structured() if chosen.name in ("head",) else (problem.inner, problem.outer)
    if compiled:
        inner = Compiled(inner)

    def work() -> Tensor:
        found = hypergradient(
            inner,
            outer,
            problem.model.params,
            problem.weights,
            problem.batches,
            rule,
            chosen,
            steps=steps,
            memory=policy,
            seed=0,
            wrt_start=False,
        )
        weights: Tensor = found.grad_c
        return weights

    return work


def reference(model: str, batch: int, optimizer: str, lr: float, steps: int, shape: tuple[int, ...] | None) -> Tensor:
    """The exact gradient in float64, on the CPU."""
    problem = build(model, batch, torch.float64, "cpu", shape)
    return ours(problem, inner_rule(optimizer, lr), steps, "exact", "recompute")()


def configurations(
    estimators: Iterable[str], memories: Iterable[str], backends: Iterable[str]
) -> list[tuple[str, str, str]]:
    """``(estimator, memory, backend)``; memory policies are swept for ``exact``, whose gradient they leave as it is."""
    found = []
    for name in estimators:
        found += [(name, memory, "func") for memory in (memories if name == "exact" else ("store",))]
    if "compiled" in backends:
        found += [(name, memory, "compiled") for name, memory, _ in found if name == "exact" and "auto" not in memory]
    if "higher" in backends:
        found += [("exact", "store", "higher")]
    return found


def sweep(
    model: str,
    steps: Iterable[int],
    *,
    estimators: Iterable[str] = ESTIMATORS,
    memories: Iterable[str] = MEMORIES,
    backends: Iterable[str] = ("func",),
    peers: Iterable[str] = (),
    batch: int = 16,
    optimizer: str = "sgd",
    lr: float = 0.05,
    repeats: int = 3,
    device: str = "cpu",
    shape: tuple[int, ...] | None = None,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Measures every configuration and returns rows, what was skipped and why, and the machine.

    Raises:
        BenchError: for a model that cannot be set up. UnknownName, EstimatorError, BadMemoryPolicy: for a wrong name.
    """
    problem = build(model, batch, torch.float32, device, shape)
    rule, rows, skipped = inner_rule(optimizer, lr), [], []
    wanted = configurations(list(estimators), list(memories), list(backends))
    for memory in memories:
        parse_memory(memory)
    steps = list(steps)
    for k in counted(steps, "numbers of steps", len(steps)):
        truth = reference(model, batch, optimizer, lr, k, shape)
        unit = plain_steps(problem, rule, k)
        works: dict[str, tuple[Callable[[], Tensor], tuple[str, str, str]]] = {}
        for estimator, memory, backend in wanted:
            label = estimator if memory == "store" and backend == "func" else f"{estimator} / {memory}"
            label = f"higher's unroll, {estimator}" if backend == "higher" else label
            label = f"compiled, {label.replace(' / store', '')}" if backend == "compiled" else label
            work = ours(problem, rule, k, estimator, memory, backend)
            works[label] = (work, (estimator, memory, backend))
        for name in peers:
            if not installed(name):
                skipped.append({"system": name, "steps": k, "why": "not installed"})
                continue
            works[name] = (PEERS[name](problem, optimizer, lr, k), ("", "", name))
        usable = {}
        for label, (work, kind) in counted(works.items(), "trying", len(works)):
            try:
                usable[label] = (work, kind, work().detach())
            except (CannotCompile, EstimatorError, BadMemoryPolicy, RuntimeError, AttributeError, TypeError) as error:
                skipped.append(
                    {"system": label, "steps": k, "why": f"{type(error).__name__}: {str(error).splitlines()[0]}"}
                )
        say(f"k = {k}: timing {len(usable)} configurations")
        times = paired_times({"plain": unit, **{label: w for label, (w, _, _) in usable.items()}}, repeats)
        plain_peak, plain_flops = peak_bytes(unit), flops(unit)
        for label, (work, (estimator, memory, backend), found) in usable.items():
            wall = ratio(times[label], times["plain"])
            # torch counts neither operations nor allocations inside a compiled program
            sees = backend != "compiled"
            peak = peak_bytes(work) if sees else None
            work_flops = flops(work) / max(1, plain_flops) if sees else None
            costs = (*wall, work_flops, peak, None if peak is None else peak / max(1, plain_peak))
            rows.append(Row(label, backend, estimator, memory, k, *costs, *accuracy(found, truth)))
    return {
        "benchmark": "hypergradient",
        "model": model,
        "parameters": sum(p.numel() for p in problem.module.parameters()),
        "batch": batch,
        "optimizer": optimizer,
        "lr": lr,
        "repeats": repeats,
        "machine": machine(device),
        "rows": [asdict(row) for row in rows],
        "skipped": skipped,
    }


def accuracy(found: Tensor, truth: Tensor) -> tuple[float, float]:
    """Relative error and cosine against the reference."""
    found = found.detach().double().cpu()
    size = truth.norm().clamp_min(1e-300)
    cosine = torch.nn.functional.cosine_similarity(found.flatten(), truth.flatten(), dim=0)
    return float((found - truth).norm() / size), float(cosine)


def table(result: dict[str, Any]) -> Table:
    """The measured rows, cheapest first within each k."""
    title = (
        f"{result['model']}, {result['parameters']:,} parameters, batch {result['batch']}, {result['optimizer']}: cost in "
        "units of k plain steps, accuracy against the float64 exact gradient"
    )
    view = Table(title=cell(title), title_justify="left")
    view.add_column("k", justify="right")
    view.add_column("system")
    for column in ("wall", "range", "FLOPs", "peak MiB", "x plain", "rel. error", "cosine"):
        view.add_column(column, justify="right")
    last = None
    for row in sorted(result["rows"], key=lambda r: (r["steps"], r["wall"])):
        view.add_row(
            str(row["steps"]) if row["steps"] != last else "",
            cell(row["system"]),
            f"{row['wall']:.2f}",
            f"{row['wall_low']:.2f}-{row['wall_high']:.2f}",
            *_counted(row),
            f"{row['error']:.1e}",
            f"{row['cosine']:+.4f}",
            end_section=False,
        )
        last = row["steps"]
    return view


def _counted(row: dict[str, Any]) -> tuple[str, str, str]:
    if row["peak"] is None:
        return "-", "-", "-"
    return f"{row['flops']:.2f}", f"{row['peak'] / 2**20:.1f}", f"{row['peak_ratio']:.1f}"


__all__ = ["ESTIMATORS", "MEMORIES", "Row", "accuracy", "sweep", "table"]

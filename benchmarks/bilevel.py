"""Solvers of bilevel problems against each other: ours, and the field's stochastic ones as their papers have them.

    python benchmarks/bilevel.py

Three problems (``bilevel_problems.py``), every method for the same CPU seconds at each of several outer step sizes, the best of
which is shown. The value function and its gradient are computed afterwards, with the inner problem solved anew. Writes
``results/bilevel.json`` and ``results/bilevel.png``.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from metaimpute.engine import after_training, implicit, sgd
from metaimpute.engine.linear_solvers import CG, Richardson, WarmStart

try:
    from benchmarks.bilevel_problems import PROBLEMS, Bilevel
except ImportError:
    from bilevel_problems import PROBLEMS, Bilevel  # type: ignore[no-redef]

Step = Callable[
    [Tensor, Tensor, float], tuple[Tensor, Tensor]
]  # (z, outer, outer step size) -> the same, after one outer step
STEPS = 10  # inner steps, and steps of the linear system
BATCH = 32


class Oracle:
    """Gradients and second-order products of a problem on random rows, or on all of them."""

    def __init__(self, problem: Bilevel, batch: int | None) -> None:
        self.problem, self.batch, self.rng = problem, batch, torch.Generator().manual_seed(0)

    def rows(self, count: int) -> Tensor:
        return torch.arange(count) if self.batch is None else torch.randint(0, count, (self.batch,), generator=self.rng)

    def inner(self, z: Tensor, outer: Tensor) -> Tensor:
        z = z.detach().requires_grad_()
        return torch.autograd.grad(self.problem.lower(z, outer, self.rows(self.problem.lower_rows)), z)[0]

    def products(self, z: Tensor, outer: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """``(d2 lower / dz dz) v`` and ``(d2 lower / d outer dz) v``."""
        z, outer = z.detach().requires_grad_(), outer.detach().requires_grad_()
        value = self.problem.lower(z, outer, self.rows(self.problem.lower_rows))
        slope = torch.autograd.grad(value, z, create_graph=True)[0]
        return torch.autograd.grad(slope, [z, outer], v)  # type: ignore[return-value]

    def outer(self, z: Tensor, outer: Tensor) -> tuple[Tensor, Tensor]:
        z, outer = z.detach().requires_grad_(), outer.detach().requires_grad_()
        return torch.autograd.grad(self.problem.upper(z, outer, self.rows(self.problem.upper_rows)), [z, outer])  # type: ignore[return-value]


# the field's -------------------------------------------------------------------------------------------------------------


def soba(problem: Bilevel) -> Step:
    """One stochastic step of inner variable, linear system and outer variable together (Dagréou et al., NeurIPS 2022)."""
    oracle, rho, v = Oracle(problem, BATCH), problem.step() / 2, [torch.zeros_like(problem.z)]

    def step(z: Tensor, outer: Tensor, lr: float) -> tuple[Tensor, Tensor]:
        slope, (image, crossed), (to_z, direct) = (
            oracle.inner(z, outer),
            oracle.products(z, outer, v[0]),
            oracle.outer(z, outer),
        )
        v[0] = v[0] - rho * (image - to_z)
        return z - rho * slope, outer - lr * (direct - crossed)

    return step


def amigo(problem: Bilevel) -> Step:
    """Stochastic steps of the inner problem, then of the linear system, both warm (Arbel and Mairal, ICLR 2022)."""
    oracle, rho, v = Oracle(problem, BATCH), problem.step() / 2, [torch.zeros_like(problem.z)]

    def step(z: Tensor, outer: Tensor, lr: float) -> tuple[Tensor, Tensor]:
        for _ in range(STEPS):
            z = z - rho * oracle.inner(z, outer)
        to_z, direct = oracle.outer(z, outer)
        for _ in range(STEPS):
            v[0] = v[0] - rho * (oracle.products(z, outer, v[0])[0] - to_z)
        return z, outer - lr * (direct - oracle.products(z, outer, v[0])[1])

    return step


def stocbio(problem: Bilevel) -> Step:
    """Stochastic inner steps, a Neumann series with a batch per term, from nothing (Ji, Yang and Liang, ICML 2021)."""
    oracle, rho = Oracle(problem, BATCH), problem.step() / 2

    def step(z: Tensor, outer: Tensor, lr: float) -> tuple[Tensor, Tensor]:
        for _ in range(STEPS):
            z = z - rho * oracle.inner(z, outer)
        to_z, direct = oracle.outer(z, outer)
        term = total = rho * to_z
        for _ in range(STEPS):
            term = term - rho * oracle.products(z, outer, term)[0]
            total = total + term
        return z, outer - lr * (direct - oracle.products(z, outer, total)[1])

    return step


def ttsa(problem: Bilevel) -> Step:
    """One inner step, a series of random length, an outer step on a slower scale (Hong et al., SIAM J. Optim. 2023)."""
    oracle, rho, number = Oracle(problem, BATCH), problem.step() / 2, [0]

    def step(z: Tensor, outer: Tensor, lr: float) -> tuple[Tensor, Tensor]:
        number[0] += 1
        z = z - rho * number[0] ** -0.1 * oracle.inner(z, outer)
        to_z, direct = oracle.outer(z, outer)
        v = STEPS * rho * to_z
        for _ in range(int(torch.randint(0, STEPS, (), generator=oracle.rng))):
            v = v - rho * oracle.products(z, outer, v)[0]
        return z, outer - lr * number[0] ** -0.2 * (direct - oracle.products(z, outer, v)[1])

    return step


# ours --------------------------------------------------------------------------------------------------------------------


def by_implicit(problem: Bilevel, solve: Any, batch: int | None = None) -> Step:
    """Plain inner steps, warm; ``implicit`` differentiates their end."""
    oracle, rho, number = Oracle(problem, batch), problem.step() * (1 if batch is None else 0.5), [0]
    rows = torch.arange(problem.lower_rows)

    def step(z: Tensor, outer: Tensor, lr: float) -> tuple[Tensor, Tensor]:
        for _ in range(STEPS):
            z = z - rho * oracle.inner(z, outer)
        number[0] += 1
        at = outer.detach().requires_grad_()
        if batch is None:
            end = implicit(z, at, objective=lambda z, o: problem.lower(z, o, rows), solve=solve, tolerance=float("inf"))
        else:
            end = implicit(
                z, at, objective=problem.lower, solve=solve, seed=number[0],
                batches=lambda rng: torch.randint(0, problem.lower_rows, (batch,), generator=rng),
            )  # fmt: skip
        slope = torch.autograd.grad(problem.upper(end, at, oracle.rows(problem.upper_rows)), at)[0]
        return z, outer - lr * slope

    return step


def by_unroll(problem: Bilevel, estimator: str) -> Step:
    """``after_training``: the inner steps, warm, differentiated themselves."""
    rho, rows, upper = problem.step(), torch.arange(problem.lower_rows), torch.arange(problem.upper_rows)

    def step(z: Tensor, outer: Tensor, lr: float) -> tuple[Tensor, Tensor]:
        at = outer.detach().requires_grad_()
        ends: list[Tensor] = []

        def last(p: Tensor, o: Tensor, _: Any) -> Tensor:
            ends[:] = [p.detach()]
            return problem.upper(p, o, upper)

        value = after_training(
            lambda p, o, _: problem.lower(p, o, rows),
            last,
            z,
            at,
            optimizer=sgd(rho),
            steps=STEPS,
            estimator=estimator,
            seed=0,
        )
        return ends[0], outer - lr * torch.autograd.grad(value, at)[0]

    return step


def few(**options: Any) -> CG:
    return CG(max_iterations=STEPS, unfinished="allow", **options)


METHODS: dict[str, Callable[[Bilevel], Step]] = {
    "implicit, CG, warm": lambda p: by_implicit(p, WarmStart(few())),
    "implicit, CG": lambda p: by_implicit(p, few()),
    "implicit, batches": lambda p: by_implicit(
        p, WarmStart(Richardson(alpha=p.step() / 2, max_iterations=STEPS)), BATCH
    ),
    "after_training, exact": lambda p: by_unroll(p, "exact"),
    "after_training, cg": lambda p: by_unroll(p, f"cg({STEPS})"),
    "AmIGO": amigo,
    "SOBA": soba,
    "StocBiO": stocbio,
    "TTSA": ttsa,
}
RATES = {"quadratics": (0.03, 0.1, 0.3, 1.0), "penalties": (3.0, 30.0, 300.0), "cleaning": (3.0, 30.0, 300.0, 3000.0)}


def trace(problem: Bilevel, method: Callable[[Bilevel], Step], lr: float, seconds: float) -> list[dict[str, float]]:
    """``seconds``, ``steps``, ``value`` and ``gradient_norm`` at times that double."""
    step, z, outer = method(problem), problem.z, problem.outer
    kept, spent, steps, due = [(0.0, 0, outer)], 0.0, 0, seconds / 32
    while spent < seconds and bool(torch.isfinite(outer).all()):
        started = time.thread_time()
        z, outer = step(z, outer, lr)
        spent, steps = spent + time.thread_time() - started, steps + 1
        if spent >= due:
            kept.append((spent, steps, outer))
            due *= 2
    found, best = [], problem.z
    rows, upper = torch.arange(problem.lower_rows), torch.arange(problem.upper_rows)
    for spent, steps, outer in kept:
        if not bool(torch.isfinite(outer).all()) or float(outer.abs().max()) > 1e3:
            break
        at, best = outer.detach().requires_grad_(), problem.solved(outer, best)
        end = implicit(
            best, at, objective=lambda z, o: problem.lower(z, o, rows), solve=CG(tolerance=1e-8), tolerance=1.0
        )
        value = problem.upper(end, at, upper)
        slope = torch.autograd.grad(value, at)[0]
        found.append({"seconds": spent, "steps": steps, "value": float(value), "gradient_norm": float(slope.norm())})
    return found


def measured(seconds: float) -> dict[str, Any]:
    results: dict[str, Any] = {"torch": torch.__version__, "seconds": seconds, "problems": {}}
    for make in PROBLEMS:
        problem = make()
        rows = results["problems"][problem.name] = {}
        for name, method in METHODS.items():
            runs = [{"lr": lr, "trace": trace(problem, method, lr, seconds)} for lr in RATES[problem.name]]
            rows[name] = min(runs, key=lambda run: min(point["value"] for point in run["trace"][-2:]))
            print(problem.name, name, rows[name]["lr"], rows[name]["trace"][-1], flush=True)
    return results


def report(results: dict[str, Any], out: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, len(results["problems"]), figsize=(13, 7))
    table = Table("problem", "method", "outer rate", "outer steps", "value", "gradient norm")
    for column, (problem, rows) in enumerate(results["problems"].items()):
        best = min(point["value"] for row in rows.values() for point in row["trace"])
        for name, row in rows.items():
            points = row["trace"][1:]
            times = [point["seconds"] for point in points]
            style = "-" if name.startswith(("implicit", "after")) else "--"
            axes[0, column].loglog(times, [point["value"] - best + 1e-9 for point in points], style, label=name)
            axes[1, column].loglog(times, [point["gradient_norm"] for point in points], style)
            last = row["trace"][-1]
            table.add_row(
                problem,
                name,
                f"{row['lr']:g}",
                f"{last['steps']:,}",
                f"{last['value']:.5f}",
                f"{last['gradient_norm']:.1e}",
            )
        axes[0, column].set_title(problem)
        axes[1, column].set_xlabel("CPU seconds")
    axes[0, 0].set_ylabel("value above the best seen")
    axes[1, 0].set_ylabel("norm of the value function's gradient")
    axes[0, 0].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(out / "bilevel.png", dpi=110)
    Console(width=120).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--seconds", type=float, default=1.2, help="CPU seconds for each method at each outer step size"
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    given = parser.parse_args()
    torch.set_num_threads(1)
    results = measured(given.seconds)
    (given.out / "bilevel.json").write_text(json.dumps(results, indent=1) + "\n")
    report(results, given.out)


if __name__ == "__main__":
    main()

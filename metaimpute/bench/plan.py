"""Plans for built-in models or one's own: which estimator and memory policy, at what cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import torch

from ..engine import plan
from .hypergradient import inner_rule
from .measure import machine
from .problems import build


def sweep(
    models: Sequence[str],
    *,
    steps: int,
    budget: str | None = None,
    seconds: float = 10.0,
    batch: int = 16,
    optimizer: str = "sgd",
    lr: float = 0.05,
    device: str = "cpu",
    shape: tuple[int, ...] | None = None,
    say: Callable[[str], None] = print,
    show: Callable[[str], None] = print,
) -> dict[str, Any]:
    """A plan for each model's example weights, and the machine it was measured on.

    Args:
        say: told what is being done. show: told each plan, line by line.

    Raises:
        BenchError: for a model that cannot be set up. BadMemoryPolicy: for a budget that cannot be read.
    """
    found = []
    for name in models:
        problem = build(name, batch, torch.float32, device, shape)
        inner, outer = problem.structured() if problem.model.head else (problem.inner, problem.outer)
        say(f"{name}: measuring short unrolls for about {seconds:g} s")
        planned = plan(
            inner, outer, problem.model.params, problem.weights, problem.batches, inner_rule(optimizer, lr),
            steps=steps, budget=budget, seconds=seconds,
        )  # fmt: skip
        for line in (*([name] * (len(models) > 1)), *str(planned).split("\n")):
            show(line)
        found.append({
            "model": name,
            "parameters": sum(leaf.numel() for leaf in problem.module.parameters()),
            "best": None if planned.best is None else planned.best.arguments,
            **{key: value for key, value in asdict(planned).items() if key != "choices"},
            "choices": [asdict(one) for one in planned.choices],
        })  # fmt: skip
    return {
        "benchmark": "plan", "batch": batch, "optimizer": optimizer, "lr": lr, "seconds": seconds,
        "machine": machine(device), "models": found,
    }  # fmt: skip

"""Error of a network on a pool of examples, in evaluation mode."""

from __future__ import annotations

import torch
from torch import nn

from ..tasks.base import Pool, Task
from .data import to_device


def measure(module: nn.Module, task: Task, pool: Pool, batch: int, device: torch.device) -> dict[str, float]:
    """``error``, the task's metric over the pool (for classes: error in percent), and the means of its output's other measures.

    NaN for an empty pool.
    """
    if not len(pool) or pool.targets is None:
        return {"error": float("nan")}
    was_training = module.training
    module.eval()
    totals: dict[str, float] = {}
    rng = torch.Generator().manual_seed(0)
    try:
        with torch.inference_mode():
            for start in range(0, len(pool), batch):
                index = torch.arange(start, min(start + batch, len(pool)))
                inputs = to_device(task.view(pool.take(index), "none", rng), device)
                targets, raw = pool.targets[index].to(device), module(inputs)
                found = {"error": task.output.error(raw, targets), **task.output.measures(raw, targets)}
                for name, values in found.items():
                    totals[name] = totals.get(name, 0.0) + float(values.sum())
    finally:
        module.train(was_training)
    means = {name: total / len(pool) for name, total in totals.items()}
    return means | {"error": task.output.overall(means["error"])}


def evaluate(module: nn.Module, task: Task, pool: Pool, batch: int, device: torch.device) -> float:
    """Mean of the task's metric over the pool; NaN for an empty pool."""
    return measure(module, task, pool, batch, device)["error"]

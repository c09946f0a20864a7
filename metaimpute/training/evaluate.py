"""Error of a network on a pool of examples, in evaluation mode."""

from __future__ import annotations

import torch
from torch import nn

from ..tasks.base import Pool, Task
from .data import to_device


def evaluate(module: nn.Module, task: Task, pool: Pool, batch: int, device: torch.device) -> float:
    """Mean of the task's metric over the pool (for classes: error in percent); NaN for an empty pool."""
    if not len(pool) or pool.targets is None:
        return float("nan")
    was_training = module.training
    module.eval()
    total, rng = 0.0, torch.Generator().manual_seed(0)
    try:
        with torch.inference_mode():
            for start in range(0, len(pool), batch):
                index = torch.arange(start, min(start + batch, len(pool)))
                inputs = to_device(task.view(pool.take(index), "none", rng), device)
                targets = pool.targets[index].to(device)
                total += float(task.output.error(module(inputs), targets).sum())
    finally:
        module.train(was_training)
    return total / len(pool)

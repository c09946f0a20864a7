"""What a label update does: losses just before and just after it (paper, Fig. 2). Nothing in training depends on it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..batches import Labelled
from ..engine.noise import derive_seed
from ..streams import Stream
from ..tasks.base import Pool, Task
from .data import to_device
from .evaluation import outputs_of


class UpdateWatch:
    """Mean task loss, in evaluation mode, on the step's hold-out batch and on a fixed random sample of the test set.

    Args:
        count: test examples in the sample.
    """

    def __init__(self, module: nn.Module, task: Task, test: Pool, count: int, seed: int, device: torch.device) -> None:
        self.module, self.task = module, task
        rng = torch.Generator(device="cpu").manual_seed(derive_seed(seed, Stream.WATCHED))
        index = torch.randperm(len(test), generator=rng, device="cpu")[:count]
        assert test.targets is not None
        self.inputs = to_device(task.view(test.take(index), "none", rng), device)
        self.targets = test.targets[index].to(device)

    def __call__(self, holdout: Labelled) -> dict[str, Tensor]:
        """``{"holdout": loss, "test": loss}`` of the network as it is now."""
        pairs = {"holdout": (holdout.inputs, holdout.targets), "test": (self.inputs, self.targets)}
        found = outputs_of(self.module, [inputs for inputs, _ in pairs.values()])
        with torch.no_grad():
            return {
                name: self.task.output.loss(raw, targets).mean()
                for raw, (name, (_, targets)) in zip(found, pairs.items(), strict=True)
            }

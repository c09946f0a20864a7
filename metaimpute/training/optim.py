"""Outer optimisers and learning-rate schedules, from torch.optim, as a recipe names them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from ..bounds import BelowOne, NonNegative, Positive, Rate, Share


class OptimizerSpec(BaseModel):
    """An optimiser of ``torch.optim``.

    Attributes:
        head_lr: learning rate of the last linear layer, where it differs from ``lr``.
    """

    model_config = ConfigDict(extra="forbid")

    name: Literal["adam", "adamw", "sgd"] = "adam"
    lr: Rate = 1e-3
    head_lr: Rate | None = None
    weight_decay: NonNegative = 0.0
    momentum: BelowOne = 0.9
    nesterov: bool = False
    betas: tuple[BelowOne, BelowOne] = (0.9, 0.999)

    @model_validator(mode="after")
    def _nesterov(self) -> OptimizerSpec:
        if self.nesterov and (self.name != "sgd" or self.momentum == 0):
            raise ValueError("nesterov needs sgd with a momentum above 0")
        return self

    def build(self, module: nn.Module | list[torch.Tensor], head: tuple[str, ...] = ()) -> torch.optim.Optimizer:
        """The optimiser over a module's trainable parameters, or over a list of tensors."""
        if isinstance(module, list):
            groups = [{"params": module}]
        else:
            named = [(n, p) for n, p in module.named_parameters() if p.requires_grad]
            groups = [{"params": [p for n, p in named if self.head_lr is None or n not in head]}]
            if self.head_lr is not None:
                groups.append({"params": [p for n, p in named if n in head], "lr": self.head_lr})  # type: ignore[dict-item]
        if self.name == "sgd":
            return torch.optim.SGD(
                groups, lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay, nesterov=self.nesterov
            )
        kind = torch.optim.Adam if self.name == "adam" else torch.optim.AdamW
        return kind(groups, lr=self.lr, betas=self.betas, weight_decay=self.weight_decay)


class ScheduleSpec(BaseModel):
    """Learning rate over training, as a factor of the optimiser's.

    Attributes:
        name: ``constant``; ``linear`` decay to 0; ``cosine``: cos(7 pi t / 16 T) as in FixMatch; ``steps``: times ``factor``
            at each milestone. warmup: steps of linear warm-up. milestones: fractions of training.
    """

    model_config = ConfigDict(extra="forbid")

    name: Literal["constant", "linear", "cosine", "steps"] = "constant"
    warmup: int = Field(0, ge=0)
    milestones: list[Share] = []
    factor: Positive = 0.1

    def factor_at(self, total: int) -> Callable[[int], float]:
        def at(step: int) -> float:
            if step < self.warmup:
                return (step + 1) / self.warmup
            done = (step - self.warmup) / max(1, total - self.warmup)
            if self.name == "linear":
                return max(0.0, 1.0 - done)
            if self.name == "cosine":
                return math.cos(7 * math.pi * done / 16)
            if self.name == "steps":
                return self.factor ** sum(step / total >= m for m in self.milestones)
            return 1.0

        return at

    def build(self, optimizer: torch.optim.Optimizer, total: int) -> LambdaLR:
        return LambdaLR(optimizer, self.factor_at(total))

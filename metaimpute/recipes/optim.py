"""Outer optimisers and learning-rate schedules, from torch.optim, as a recipe names them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from ..ranges import BelowOne, NonNegative, Positive, Rate, Share
from .signature import Open, checked, options_of

KINDS: dict[str, type[torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "sgd": torch.optim.SGD,
}
FUSED = ("cuda", "xpu", "mps")
NOT_FOR_TRAINING = {"capturable", "differentiable"}  # of graphs of steps, which a run does not make


class OptimizerSpec(Open):
    """An optimiser of ``torch.optim``. Every other option of its constructor may stand beside these keys.

    Attributes:
        head_lr: learning rate of the last linear layer, where it differs from ``lr``.
        weight_decay: added to the gradient as an L2 term by ``adam`` and ``sgd``; decoupled in ``adamw``, where every step
            multiplies a parameter by ``1 - lr * weight_decay``.
        decay_biases: whether parameters of a network with fewer than two dimensions decay too, which are its biases and the
            scales and shifts of normalisation layers. BERT and UDA (Xie et al., NeurIPS 2020) leave them out.
    """

    name: Literal["adam", "adamw", "sgd"] = "adam"
    lr: Rate = 1e-3
    head_lr: Rate | None = None
    weight_decay: NonNegative = 0.0
    decay_biases: bool = True
    momentum: BelowOne = 0.9
    nesterov: bool = False
    betas: tuple[BelowOne, BelowOne] = (0.9, 0.999)

    @model_validator(mode="after")
    def _nesterov(self) -> OptimizerSpec:
        if self.nesterov and (self.name != "sgd" or self.momentum == 0):
            raise ValueError("nesterov needs sgd with a momentum above 0")
        return self

    @model_validator(mode="after")
    def _options(self) -> OptimizerSpec:
        if self.options:
            types, fields = options_of(KINDS[self.name]), type(self).model_fields
            own = {name: kind for name, kind in types.items() if name not in {*fields, *NOT_FOR_TRAINING}}
            self.keep(checked(self.options, own, fields, self.name))
            try:
                self.build([torch.zeros(1, requires_grad=True)])
            except (RuntimeError, TypeError) as error:
                raise ValueError(str(error).splitlines()[0]) from None
        return self

    def build(self, module: nn.Module | list[torch.Tensor], head: tuple[str, ...] = ()) -> torch.optim.Optimizer:
        """The optimiser over a module's trainable parameters, or over a list of tensors.

        Of parameters on an accelerator it is torch's fused one, unless the options say otherwise.

        A list is one group, all of it decayed. A module's parameters are one group, or two where the last layer has a learning
        rate of its own; with ``decay_biases`` off each is followed by the group of its parameters that do not decay.
        """
        groups: list[dict[str, Any]]
        if isinstance(module, list):
            groups = [{"params": module}]
        else:
            named = [(n, p) for n, p in module.named_parameters() if p.requires_grad]
            groups = [{"params": [p for n, p in named if self.head_lr is None or n not in head]}]
            if self.head_lr is not None:
                groups.append({"params": [p for n, p in named if n in head], "lr": self.head_lr})
            if not self.decay_biases:
                groups = [part for group in groups for part in _without_decay_of_biases(group)]
        own = {"momentum": self.momentum, "nesterov": self.nesterov} if self.name == "sgd" else {"betas": self.betas}
        build: Any = KINDS[self.name]
        kernels = {"fused": True} if _has_fused(groups) and not {"fused", "foreach"} & set(self.options) else {}
        optimizer: torch.optim.Optimizer = build(
            groups, lr=self.lr, weight_decay=self.weight_decay, **own, **kernels, **self.options
        )
        return optimizer


def _has_fused(groups: list[dict[str, Any]]) -> bool:
    """Whether all parameters are on an accelerator for which torch has one kernel for the whole step.

    The CPU has it as well, with other last bits than the default; ``fused: true`` asks for it.
    """
    params = [p for group in groups for p in group["params"]]
    return bool(params) and all(p.device.type in FUSED and p.is_floating_point() for p in params)


def _without_decay_of_biases(group: dict[str, Any]) -> list[dict[str, Any]]:
    weights = [p for p in group["params"] if p.ndim >= 2]
    others = [p for p in group["params"] if p.ndim < 2]
    parts = [{**group, "params": weights}, {**group, "params": others, "weight_decay": 0.0}]
    return [part for part in parts if part["params"]]


class ScheduleSpec(BaseModel):
    """Learning rate over training, as a factor of the optimiser's.

    Attributes:
        name: ``constant``; ``linear`` decay to 0; ``cosine``: cos(7 pi t / 16 T) as in FixMatch; ``steps``: times ``factor``
            at each milestone. warmup: steps of linear warm-up. milestones: fractions of training.
        decay_from: where ``linear`` and ``cosine`` decay begin: ``warmup``, at its end, or ``start``, at step 0, as in the
            optimiser of BERT and UDA. There step t < warmup has t / warmup, so that the first step moves nothing, and step
            t >= warmup has the factor of t / T; with ``warmup`` the first step has 1 / warmup already. ``steps`` always counts
            its milestones from step 0.
    """

    model_config = ConfigDict(extra="forbid")

    name: Literal["constant", "linear", "cosine", "steps"] = "constant"
    warmup: int = Field(0, ge=0)
    milestones: list[Share] = []
    factor: Positive = 0.1
    decay_from: Literal["warmup", "start"] = "warmup"

    @model_validator(mode="after")
    def _decays(self) -> ScheduleSpec:
        if self.decay_from == "start" and self.name not in ("linear", "cosine"):
            raise ValueError(f"decay_from: start is for linear and cosine decay, not for '{self.name}'")
        return self

    def factor_at(self, total: int) -> Callable[[int], float]:
        def at(step: int) -> float:
            if step < self.warmup:
                return (step + (self.decay_from == "warmup")) / self.warmup
            begin = self.warmup if self.decay_from == "warmup" else 0
            done = (step - begin) / max(1, total - begin)
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

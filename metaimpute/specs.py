"""The keys a recipe may hold and their types; a component's own options stand beside them, checked against its fields."""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from .engine import InnerOptimizer, optimizers
from .training.optim import OptimizerSpec, ScheduleSpec


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class InnerSpec(Strict):
    """The look-ahead's optimiser: a registered name, its learning rate and options, and the number of steps."""

    optimizer: str = "sgd"
    lr: float = Field(0.1, gt=0)
    steps: int = Field(1, ge=1)
    momentum: float | None = Field(None, ge=0, lt=1)
    weight_decay: float = Field(0.0, ge=0)

    def build(self) -> InnerOptimizer:
        options: dict[str, Any] = {} if self.momentum is None else {"momentum": self.momentum}
        return optimizers.get(self.optimizer)(self.lr, weight_decay=self.weight_decay, **options)


class ProblemSpec(Strict):
    """Options of every bilevel problem; a problem's own options stand beside them in the recipe."""

    name: str
    estimator: str | dict[str, Any] = "exact"
    backend: str = "func"
    memory: str = "store"
    inner: InnerSpec = Field(default_factory=InnerSpec)
    path: Literal["labels", "full"] = "labels"
    inner_loss: Literal["all", "unlabelled"] = "all"
    outer_optimizer: Literal["shared", "separate"] = "shared"
    outer: OptimizerSpec | None = None
    holdout: Literal["joint", "separate"] = "joint"
    holdout_batch: int | None = Field(None, ge=1)
    holdout_view: Literal["none", "weak", "strong"] | None = None
    weight: float = 1.0
    schedule: Literal["algorithm1", "fused"] = "algorithm1"
    scale: str = "raw"

    @field_validator("scale", mode="before")
    @classmethod
    def _scale(cls, value: Any) -> str:
        if value == "raw" or (isinstance(value, str) and _relative(value) is not None):
            return value
        raise ValueError("write 'raw', or 'relative(rho)' with rho > 0, e.g. relative(1)")

    @property
    def relative(self) -> float | None:
        """rho of ``relative(rho)``, or None for ``raw``."""
        return _relative(self.scale)


def _relative(text: str) -> float | None:
    match = re.fullmatch(r"relative\(\s*([0-9.]+(?:e-?\d+)?)\s*\)", text)
    try:
        value = float(match[1]) if match else 0.0
    except ValueError:
        return None
    return value if 0 < value < float("inf") else None


class TrainSpec(Strict):
    """The training loop. ``batch`` counts labelled and ``unlabelled_batch`` unlabelled examples per step.

    ``test_checkpoints``: how many of the last evaluation points also see the test set; their median is reported beside
    the last one. ``ema``: decay of the averaged weights that are evaluated, None for the weights themselves.
    """

    steps: int = Field(1000, ge=1)
    batch: int = Field(64, ge=1)
    unlabelled_batch: int = Field(64, ge=1)
    optimizer: OptimizerSpec = Field(default_factory=OptimizerSpec)
    schedule: ScheduleSpec = Field(default_factory=ScheduleSpec)
    ema: float | None = Field(None, ge=0, lt=1)
    seed: int = Field(0, ge=0)
    eval_every: int = Field(100, ge=1)
    eval_batch: int = Field(256, ge=1)
    checkpoint_every: int = Field(100, ge=1)
    log_every: int = Field(10, ge=1)
    test_checkpoints: int = Field(20, ge=1)
    device: str = "auto"
    threads: int | None = Field(None, ge=1)


class About(Strict):
    """What a recipe reproduces: a title and the place in the paper."""

    title: str = ""
    paper: str = ""

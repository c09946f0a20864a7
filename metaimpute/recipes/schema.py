"""The keys a recipe may hold and their types; a component's own options stand beside them, checked against its fields."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from ..engine import (
    InnerOptimizer,
    Transform,
    UnsupportedOptimizer,
    chain,
    clip,
    clip_by_global_norm,
    optimizers,
    scale_by_schedule,
)
from ..engine.optimizers.base import require_rule
from ..errors import UserError
from ..problems.forms import FormName
from ..ranges import BatchSize, BelowOne, Finite, NonNegative, Positive, Precision, Rate
from .optim import OptimizerSpec, ScheduleSpec
from .rates import parse_rate
from .signature import Open, checked, options_of, takes_any


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


RANGES: dict[str, Any] = {  # of inner optimisers' hyperparameters, which may be tensors in Python and are numbers here
    "momentum": BelowOne,
    "betas": tuple[BelowOne, BelowOne],
    "alpha": BelowOne,
    "eps": Positive,
    "eps_root": NonNegative,
    "dampening": NonNegative,
    "lr_decay": NonNegative,
    "initial_accumulator_value": NonNegative,
    "weight_decay": NonNegative,
    "momentum_decay": NonNegative,
    "rho": NonNegative,
    "r": NonNegative,
    "weight_lr_power": NonNegative,
    "adamw_betas": tuple[BelowOne, BelowOne],
    "adamw_eps": Positive,
}


GIVEN = ("lr", "weight_decay")  # the keys of InnerSpec that the optimiser itself gets


class InnerSpec(Open):
    """The look-ahead's optimiser: a registered name, its learning rate, and the number of steps.

    Its options stand beside these keys, as its signature has them. ``rate``: how the learning rate goes on from ``lr``:
    ``fixed``, ``learned``, ``line_search`` or ``trust(change)``. ``clip_norm`` and ``clip_value`` clip the inner gradient;
    ``schedule`` holds one factor of the learning rate per step.
    """

    optimizer: str = "sgd"
    lr: Rate = 0.1
    rate: str = "fixed"
    steps: Annotated[int, Field(ge=1, le=100_000)] = 1
    weight_decay: NonNegative = 0.0
    clip_norm: Positive | None = None
    clip_value: Positive | None = None
    schedule: list[NonNegative] | None = None

    @field_validator("rate")
    @classmethod
    def _rate(cls, value: str) -> str:
        parse_rate(value)
        return value

    @model_validator(mode="after")
    def _options(self) -> InnerSpec:
        if self.optimizer in optimizers:  # else that is what is said
            factory = optimizers.get(self.optimizer)
            types, fields = options_of(factory, RANGES), type(self).model_fields
            taken = [name for name in types if name in fields and name not in GIVEN]
            if taken:
                raise ValueError(
                    f"'{self.optimizer}' has an option called '{taken[0]}', a key of this section that it would never get; "
                    "rename the option"
                )
            own = {name: kind for name, kind in types.items() if name not in fields}
            beside = {name: field for name, field in fields.items() if name != "weight_decay" or name in types}
            given = self.options
            if self.weight_decay and "weight_decay" not in types and not takes_any(factory):
                given["weight_decay"] = self.weight_decay
            self.keep(checked(given, own, beside, self.optimizer, takes_any(factory)))
        return self

    def build(self) -> InnerOptimizer:
        """The inner optimiser.

        Raises:
            UnknownName: for one that is not registered. UnsupportedOptimizer: for options that do not go together.
        """
        factory = optimizers.get(self.optimizer)
        decays = "weight_decay" in options_of(factory) or takes_any(factory)
        try:
            made = factory(self.lr, **({"weight_decay": self.weight_decay} if decays else {}), **self.options)
        except UserError:
            raise
        except Exception as error:  # of a rule of one's own
            raise UnsupportedOptimizer(f"'{self.optimizer}' was not made: {type(error).__name__}: {error}") from None
        rule = require_rule(made, f"what '{self.optimizer}' returns")
        before: list[Transform] = []
        if self.clip_norm is not None:
            before.append(clip_by_global_norm(self.clip_norm))
        if self.clip_value is not None:
            before.append(clip(self.clip_value))
        if self.schedule is None:
            return chain(*before, rule)
        if len(self.schedule) < self.steps:
            raise UnsupportedOptimizer(f"schedule: {len(self.schedule)} factors for {self.steps} inner steps")
        return chain(*before, rule, scale_by_schedule(self.schedule))


HOLDOUTS = ("joint", "separate", "trusted")


class ProblemSpec(Strict):
    """Options of every bilevel problem; a problem's own options stand beside them in the recipe.

    ``form``: what L2I's look-ahead minimises, by one word; its options in the recipe go before it. ``inner_loss``: None is what
    the form has.
    """

    name: str
    estimator: str | dict[str, Any] = "exact"
    backend: str = "func"
    memory: str = "store"
    inner: InnerSpec = Field(default_factory=InnerSpec)
    path: Literal["labels", "full"] = "labels"
    form: FormName = "ours"
    inner_loss: Literal["all", "unlabelled"] | None = None
    outer_optimizer: Literal["shared", "separate"] = "shared"
    outer: OptimizerSpec | None = None
    holdout: Literal["joint", "separate", "trusted"] | str = "joint"  # or folds(n)
    holdout_batch: BatchSize | None = None
    holdout_view: Literal["none", "weak", "strong"] | None = None
    weight: Finite = 1.0
    schedule: Literal["algorithm1", "fused"] = "algorithm1"
    scale: str = "raw"
    psi: Literal["kept", "recomputed"] = "kept"

    @field_validator("holdout")
    @classmethod
    def _holdout(cls, value: str) -> str:
        if value in HOLDOUTS or _folds(value) is not None:
            return value
        raise ValueError(f"write {', '.join(HOLDOUTS)}, or folds(n) with n of at least 2, e.g. folds(5)")

    @property
    def folds(self) -> int | None:
        """n of ``folds(n)``, or None."""
        return _folds(self.holdout)

    @field_validator("scale", mode="before")
    @classmethod
    def _scale(cls, value: Any) -> str:
        if isinstance(value, str) and (value == "raw" or _relative(value) is not None):
            return value
        raise ValueError("write 'raw', or 'relative(rho)' with rho > 0, e.g. relative(1)")

    @property
    def relative(self) -> float | None:
        """rho of ``relative(rho)``, or None for ``raw``."""
        return _relative(self.scale)


def _folds(text: str) -> int | None:
    match = re.fullmatch(r"folds\(\s*([0-9]{1,6})\s*\)", text)
    return int(match[1]) if match and int(match[1]) >= 2 else None


def _relative(text: str) -> float | None:
    match = re.fullmatch(r"relative\(\s*([0-9.]+(?:e-?\d+)?)\s*\)", text)
    try:
        value = float(match[1]) if match else 0.0
    except ValueError:
        return None
    return value if 0 < value < float("inf") else None


CONDUCT = frozenset({
    "seed", "device", "threads", "workers", "views", "log_every", "checkpoint_every", "watch_test", "compile", "channels_last",
})  # fmt: skip


class TrainSpec(Strict):
    """The training loop. ``batch`` counts labelled and ``unlabelled_batch`` unlabelled examples per step.

    ``test_checkpoints``: how many of the last evaluation points also see the test set; their median is reported beside
    the last one. ``ema``: decay of the averaged weights that are evaluated, None for the weights themselves.
    ``clip_norm``: largest norm of a gradient that moves the network, base or outer; longer ones are scaled down.
    ``watch_test``: that many test examples, and the hold-out batch, have their loss recorded just before and after every
    logged label update, for the paper's Fig. 2; nothing depends on it. ``sync_batchnorm``: of several processes, BatchNorm takes
    the statistics of all rows. ``precision``: of the network's passes in a training step, under autocast; parameters, losses,
    evaluation stay float32. ``compile``: base step, and a look-ahead that is unrolled, through torch.compile.
    ``channels_last``: memory order of convolutions. ``workers``: processes that prepare batches ahead, 0 for none; ``views``:
    whether views are made as batches are drawn or on the device. Runs that differ in ``CONDUCT`` alone are of one system.
    """

    steps: int = Field(1000, ge=1, le=10**9)
    batch: BatchSize = 64
    unlabelled_batch: BatchSize = 64
    optimizer: OptimizerSpec = Field(default_factory=OptimizerSpec)
    schedule: ScheduleSpec = Field(default_factory=ScheduleSpec)
    ema: float | None = Field(None, ge=0, lt=1)
    clip_norm: Positive | None = None
    seed: int = Field(0, ge=0, lt=2**62)
    eval_every: int = Field(100, ge=1)
    eval_batch: BatchSize = 256
    checkpoint_every: int = Field(100, ge=1)
    log_every: int = Field(10, ge=1)
    test_checkpoints: int = Field(20, ge=1)
    watch_test: int = Field(0, ge=0)
    device: str = "auto"
    sync_batchnorm: bool = False
    threads: int | None = Field(None, ge=1, le=1024)
    workers: int = Field(0, ge=0, le=1024)
    views: Literal["host", "device"] = "host"
    precision: Precision = "float32"
    compile: bool = False
    channels_last: bool = False


BUDGET = re.compile(r"(\d+(?:\.\d+)?)\s*(s|min|h)?")
SECONDS = {"s": 1.0, "min": 60.0, "h": 3600.0}


class ChooseSpec(Strict):
    """Several systems beside the network, measured on folds of the labelled examples and combined.

    ``systems``: ``auto`` for all that fit, or names of members, and ``network`` for what model, method and problem describe.
    ``combine``: the mean, weighted by what each predicted of examples held out, or the best one alone. ``folds``: None is five,
    twice where labels are few. ``budget``: time, ``90s`` or ``2min``, after which no further system is begun or gone on with;
    None for no limit.
    """

    systems: Literal["auto"] | list[str] = "auto"
    combine: Literal["mean", "best"] = "mean"
    folds: int | None = Field(None, ge=2, le=100)
    budget: str | None = None

    @field_validator("systems", mode="before")
    @classmethod
    def _systems(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) and value != "auto" else value

    @field_validator("budget", mode="before")
    @classmethod
    def _budget(cls, value: Any) -> str | None:
        if value is None or seconds_of(value) is not None:
            return None if value is None else str(value)
        raise ValueError("write a time such as '90s', '2min' or '1h'")

    @property
    def seconds(self) -> float:
        """The budget; infinite where there is none."""
        found = seconds_of(self.budget)
        return float("inf") if found is None else found


def seconds_of(text: Any) -> float | None:
    """Seconds of a time such as ``90s``, ``2min`` or ``1h``; None for what is none."""
    match = BUDGET.fullmatch(str(text).strip())
    return None if match is None else float(match[1]) * SECONDS[match[2] or "s"]


class PaperRow(Strict):
    """One row of a table of the paper that a recipe reproduces under its ``paper`` profile.

    Attributes:
        table: number of the table. row: its name there. data: data set. labels: the columns, as numbers of labels, or below 1
            as shares of the training set; empty where the recipe's own is the only one.
        set: further overrides that turn the recipe into this row, e.g. ``"problem.estimator=exact"``.
    """

    table: int = Field(ge=1, le=10)
    row: str
    data: str
    labels: list[Annotated[float, Field(gt=0)]] = []
    set: list[str] = []

    def assignments(self) -> list[tuple[str, ...]]:
        """The ``--set`` assignments of each of the row's numbers."""
        columns = [f"task.label_share={n:g}" if n < 1 else f"task.labels={n:g}" for n in self.labels]
        return [(*self.set, column) for column in columns] or [tuple(self.set)]


class About(Strict):
    """What a recipe is: a title, and the rows of the paper's tables it stands for.

    ``overrides``: what ``--set`` changed of the system, kept in a resolved recipe, which is then no longer its title's.
    """

    title: str = ""
    paper: list[PaperRow] = []
    overrides: list[str] = []

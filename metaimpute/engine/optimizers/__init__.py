"""Differentiable inner optimisers, one file per rule; importing this package registers all of them."""

from .adadelta import adadelta
from .adafactor import adafactor
from .adagrad import adagrad
from .adam import adam, adamw
from .adamax import adamax
from .averaged import averaged
from .base import (
    Hyper,
    InnerOptimizer,
    UnsupportedOptimizer,
    apply_updates,
    hyper_as_leaves,
    hyper_tensors,
    optimizers,
    per_leaf,
    register_optimizer,
    take_step,
)
from .callback import gradient_callback
from .lion import lion
from .masks import masked, partition
from .muon import muon
from .nadam import nadam
from .per_step import per_step
from .radam import radam
from .rmsprop import rmsprop
from .sam import sam, sharpness_aware
from .schedule_free import schedule_free_adamw, schedule_free_sgd
from .sgd import momentum, nesterov, sgd
from .torch_twins import from_torch
from .transforms import (
    Transform,
    chain,
    clip,
    clip_by_global_norm,
    clip_norm,
    clip_value,
    parameter_groups,
    scale_by_schedule,
    scheduled,
)

__all__ = [
    "Hyper",
    "InnerOptimizer",
    "Transform",
    "UnsupportedOptimizer",
    "adadelta",
    "adafactor",
    "adagrad",
    "adam",
    "adamax",
    "adamw",
    "apply_updates",
    "averaged",
    "chain",
    "clip",
    "clip_by_global_norm",
    "clip_norm",
    "clip_value",
    "from_torch",
    "gradient_callback",
    "hyper_as_leaves",
    "hyper_tensors",
    "lion",
    "masked",
    "momentum",
    "muon",
    "nadam",
    "nesterov",
    "optimizers",
    "parameter_groups",
    "partition",
    "per_leaf",
    "per_step",
    "radam",
    "register_optimizer",
    "rmsprop",
    "sam",
    "scale_by_schedule",
    "schedule_free_adamw",
    "schedule_free_sgd",
    "scheduled",
    "sgd",
    "sharpness_aware",
    "take_step",
]

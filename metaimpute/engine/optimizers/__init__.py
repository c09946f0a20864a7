"""Differentiable inner optimisers, one file per rule; importing this package registers all of them."""

from .adagrad import adagrad
from .adam import adam, adamw
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
from .rmsprop import rmsprop
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
    "adagrad",
    "adam",
    "adamw",
    "apply_updates",
    "chain",
    "clip",
    "clip_by_global_norm",
    "clip_norm",
    "clip_value",
    "from_torch",
    "hyper_as_leaves",
    "hyper_tensors",
    "momentum",
    "nesterov",
    "optimizers",
    "parameter_groups",
    "per_leaf",
    "register_optimizer",
    "rmsprop",
    "scale_by_schedule",
    "scheduled",
    "sgd",
    "take_step",
]

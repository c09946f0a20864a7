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
)
from .rmsprop import rmsprop
from .sgd import momentum, nesterov, sgd
from .torch_twins import from_torch
from .transforms import clip_norm, clip_value, parameter_groups, scheduled

__all__ = [
    "Hyper", "InnerOptimizer", "UnsupportedOptimizer", "adagrad", "adam", "adamw", "apply_updates", "clip_norm",
    "clip_value", "from_torch", "hyper_as_leaves", "hyper_tensors", "momentum", "nesterov", "optimizers",
    "parameter_groups", "per_leaf", "register_optimizer", "rmsprop", "scheduled", "sgd",
]  # fmt: skip

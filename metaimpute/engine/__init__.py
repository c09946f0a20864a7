"""Differentiable optimiser unroll: tensors, losses and optimisers; nothing of labels, images or text."""

from __future__ import annotations

from .ambient import CannotDifferentiate, double_differentiable
from .compiled import CannotCompile, Compiled
from .estimators import Estimator, EstimatorError, HypergradientResult, estimators, register_estimator
from .estimators.choice import BACKENDS, get_estimator
from .estimators.implicit import on_trees
from .functional import FunctionalModel, HeadNotFound
from .hypergradients import hypergradient
from .losses import Factored, LabelRows, NotScalar, Split, StructuredLoss
from .memory import (
    Auto,
    Checkpoint,
    MemoryPolicy,
    Recompute,
    Revolve,
    Store,
    memory_policies,
    parse_memory,
)
from .noise import derive_seed, fixed_rng
from .optimizers import (
    InnerOptimizer,
    Transform,
    UnsupportedOptimizer,
    adagrad,
    adam,
    adamw,
    apply_updates,
    chain,
    clip,
    clip_by_global_norm,
    clip_norm,
    clip_value,
    from_torch,
    momentum,
    nesterov,
    optimizers,
    parameter_groups,
    per_leaf,
    register_optimizer,
    rmsprop,
    scale_by_schedule,
    scheduled,
    sgd,
)
from .recording import Recording, begin
from .repetition import NotRepeatable
from .replay import BadMemoryPolicy
from .stacked import stack, stacked, unstack
from .unroll import Batches, BilevelMap, Trajectory, unroll
from .value import after_training

__all__ = [
    "Auto",
    "BACKENDS",
    "BadMemoryPolicy",
    "Batches",
    "BilevelMap",
    "CannotCompile",
    "CannotDifferentiate",
    "Checkpoint",
    "Compiled",
    "Estimator",
    "EstimatorError",
    "Factored",
    "FunctionalModel",
    "HeadNotFound",
    "HypergradientResult",
    "InnerOptimizer",
    "LabelRows",
    "MemoryPolicy",
    "NotRepeatable",
    "NotScalar",
    "Recompute",
    "Recording",
    "Revolve",
    "Split",
    "Store",
    "StructuredLoss",
    "Trajectory",
    "Transform",
    "UnsupportedOptimizer",
    "adagrad",
    "adam",
    "adamw",
    "after_training",
    "apply_updates",
    "begin",
    "chain",
    "clip",
    "clip_by_global_norm",
    "clip_norm",
    "clip_value",
    "derive_seed",
    "double_differentiable",
    "estimators",
    "fixed_rng",
    "from_torch",
    "get_estimator",
    "hypergradient",
    "memory_policies",
    "momentum",
    "nesterov",
    "on_trees",
    "optimizers",
    "parameter_groups",
    "parse_memory",
    "per_leaf",
    "register_estimator",
    "register_optimizer",
    "rmsprop",
    "scale_by_schedule",
    "scheduled",
    "sgd",
    "stack",
    "stacked",
    "unroll",
    "unstack",
]

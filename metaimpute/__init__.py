"""metaimpute: learning with few labels by differentiating through training.

The public names are loaded on first use, so that ``metaimpute --help`` does not wait for torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "engine": (
        "Batches", "Compiled", "FunctionalModel", "HypergradientResult", "InnerOptimizer", "Recording", "StructuredLoss",
        "after_training", "begin", "from_torch", "hypergradient", "momentum", "nesterov", "register_estimator",
        "register_optimizer", "sgd", "unroll",
    ),
    "imputer": ("MetaImputer", "MetaImputerRegressor"),
    "inference": ("Predictions", "Predictor", "load"),
    "trained": ("Run", "train"),
    "problems": ("BilevelProblem", "register_problem"),
    "methods": ("Method", "register_method"),
    "tasks": ("Classes", "Pool", "Task", "TaskData", "Values", "register_task", "semi_supervised"),
    "models": ("Model", "register_model"),
}  # fmt: skip
_WHERE = {name: module for module, names in _HOMES.items() for name in names}
__all__ = ["__version__", *sorted(_WHERE)]

if TYPE_CHECKING:
    from .engine import (
        Batches,
        Compiled,
        FunctionalModel,
        HypergradientResult,
        InnerOptimizer,
        Recording,
        StructuredLoss,
        after_training,
        begin,
        from_torch,
        hypergradient,
        momentum,
        nesterov,
        register_estimator,
        register_optimizer,
        sgd,
        unroll,
    )  # fmt: skip
    from .imputer import MetaImputer, MetaImputerRegressor
    from .inference import Predictions, Predictor, load
    from .methods import Method, register_method
    from .models import Model, register_model
    from .problems import BilevelProblem, register_problem
    from .tasks import Classes, Pool, Task, TaskData, Values, register_task, semi_supervised
    from .trained import Run, train


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'metaimpute' has no attribute '{name}'")
    return getattr(importlib.import_module(f".{_WHERE[name]}", __name__), name)


def __dir__() -> list[str]:
    return __all__

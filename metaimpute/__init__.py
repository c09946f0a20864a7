"""metaimpute: learning with few labels by differentiating through training.

The public names are loaded on first use, so that ``metaimpute --help`` does not wait for torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

__version__ = "0.1.0"

__all__ = [
    "__version__",
    "Batches",
    "BilevelProblem",
    "Classes",
    "Compiled",
    "FunctionalModel",
    "HypergradientResult",
    "Imputed",
    "InnerOptimizer",
    "MetaImputer",
    "MetaImputerRegressor",
    "Method",
    "Model",
    "Pool",
    "Predictions",
    "Predictor",
    "Recording",
    "Run",
    "StructuredLoss",
    "Task",
    "TaskData",
    "Values",
    "after_training",
    "begin",
    "custom_root",
    "data_parallel",
    "from_torch",
    "hypergradient",
    "implicit",
    "impute",
    "inner",
    "load",
    "momentum",
    "nesterov",
    "plan",
    "register_estimator",
    "register_method",
    "register_model",
    "register_optimizer",
    "register_problem",
    "register_task",
    "semi_supervised",
    "sgd",
    "train",
    "unroll",
]

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
        custom_root,
        data_parallel,
        from_torch,
        hypergradient,
        implicit,
        inner,
        momentum,
        nesterov,
        plan,
        register_estimator,
        register_optimizer,
        sgd,
        unroll,
    )
    from .imputed import Imputed, impute
    from .imputer import MetaImputer, MetaImputerRegressor
    from .inference import Predictions, Predictor, load
    from .methods import Method, register_method
    from .models import Model, register_model
    from .problems import BilevelProblem, register_problem
    from .tasks import Classes, Pool, Task, TaskData, Values, register_task, semi_supervised
    from .trained import Run, train
else:  # hidden from type checkers, to which the module would have every name
    _HOMES = {
        "imputed": ("Imputed", "impute"),
        "imputer": ("MetaImputer", "MetaImputerRegressor"),
        "inference": ("Predictions", "Predictor", "load"),
        "methods": ("Method", "register_method"),
        "models": ("Model", "register_model"),
        "problems": ("BilevelProblem", "register_problem"),
        "tasks": ("Classes", "Pool", "Task", "TaskData", "Values", "register_task", "semi_supervised"),
        "trained": ("Run", "train"),
    }
    _WHERE = {name: module for module, names in _HOMES.items() for name in names}

    def __getattr__(name: str) -> object:
        if name not in __all__:
            raise AttributeError(f"module 'metaimpute' has no attribute '{name}'")
        return getattr(importlib.import_module(f".{_WHERE.get(name, 'engine')}", __name__), name)


def __dir__() -> list[str]:
    return __all__

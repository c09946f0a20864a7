"""Task adapters, one file each; importing this package registers all of them."""

from .base import (
    Batch,
    Imputation,
    Labelled,
    Missing,
    MissingData,
    Pool,
    Task,
    TaskData,
    TaskError,
    Unlabelled,
    register_task,
    tasks,
)  # fmt: skip
from .digits import Digits
from .imdb import IMDb
from .two_moons import TwoMoons

__all__ = [
    "Batch", "Digits", "IMDb", "Imputation", "Labelled", "Missing", "MissingData", "Pool", "Task", "TaskData",
    "TaskError", "TwoMoons", "Unlabelled", "register_task", "tasks",
]  # fmt: skip

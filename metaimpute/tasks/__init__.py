"""Task adapters, one file each; importing this package registers all of them."""

from .aflw import AFLW
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
from .cifar import Cifar10, Cifar100
from .digits import Digits
from .drawn_faces import DrawnFaces
from .fashion_mnist import FashionMNIST
from .image_folder import ImageFolder, ImageNet72, TinyImageNet
from .imdb import IMDb
from .landmarks import LandmarkTask
from .mtfl import MTFL
from .two_moons import TwoMoons

__all__ = [
    "AFLW", "MTFL", "Batch", "Cifar10", "Cifar100", "Digits", "DrawnFaces", "FashionMNIST", "IMDb", "ImageFolder", "ImageNet72",
    "Imputation", "Labelled", "LandmarkTask", "Missing", "MissingData", "Pool", "Task", "TaskData", "TaskError",
    "TinyImageNet", "TwoMoons", "Unlabelled", "register_task", "tasks",
]  # fmt: skip

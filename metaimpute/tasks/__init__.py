"""Task adapters, one file each; importing this package registers all of them."""

from ..batches import Batch, Imputation, Labelled, Unlabelled
from ..batches.outputs import Classes, Values
from .aflw import AFLW
from .base import Missing, MissingData, Pool, Task, TaskData, TaskError, register_task, tasks
from .cifar import Cifar10, Cifar100
from .digits import Digits
from .drawn_faces import DrawnFaces
from .fashion_mnist import FashionMNIST
from .few_shot import FewShotDigits, FewShotImages
from .image_folder import ImageFolder, ImageNet72, TinyImageNet
from .imdb import IMDb
from .landmarks import LandmarkTask
from .mtfl import MTFL
from .own_images import OwnImages
from .own_table import OwnTable
from .own_text import OwnText
from .sinusoid import Sinusoid
from .splits import semi_supervised
from .two_moons import TwoMoons

__all__ = [
    "AFLW",
    "MTFL",
    "Batch",
    "Cifar10",
    "Cifar100",
    "Classes",
    "Digits",
    "DrawnFaces",
    "FashionMNIST",
    "FewShotDigits",
    "FewShotImages",
    "IMDb",
    "ImageFolder",
    "ImageNet72",
    "Imputation",
    "Labelled",
    "LandmarkTask",
    "Missing",
    "MissingData",
    "OwnImages",
    "OwnTable",
    "OwnText",
    "Pool",
    "Sinusoid",
    "Task",
    "TaskData",
    "TaskError",
    "TinyImageNet",
    "TwoMoons",
    "Unlabelled",
    "Values",
    "register_task",
    "semi_supervised",
    "tasks",
]

"""Networks, one file per family; importing this package registers all of them."""

from .base import Model, check_accepts, models, register_model
from .small import MLP, SmallCNN
from .text import BertBase, MiniLM, TextClassifier, TextModel
from .wrn import WRN, WideResNet

__all__ = [
    "MLP", "WRN", "BertBase", "MiniLM", "Model", "SmallCNN", "TextClassifier", "TextModel", "WideResNet",
    "check_accepts", "models", "register_model",
]  # fmt: skip

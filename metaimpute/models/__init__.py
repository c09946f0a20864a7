"""Networks, one file per family; importing this package registers all of them."""

from .base import Model, check_accepts, models, register_model
from .small import MLP, SmallCNN
from .text import BertBase, MiniLM, TextClassifier, TextModel

__all__ = [
    "MLP", "BertBase", "MiniLM", "Model", "SmallCNN", "TextClassifier", "TextModel", "check_accepts", "models",
    "register_model",
]  # fmt: skip

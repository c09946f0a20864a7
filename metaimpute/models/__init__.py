"""Networks, one file per family; importing this package registers all of them."""

from .base import Model, check_accepts, models, register_model
from .bert import BertBase, MiniLM
from .classifier import FeatureClassifier
from .image_encoder import TimmEncoder
from .image_features import FeatureModel
from .image_patches import PatchClassifier, PatchFeatures
from .mixed_cnn import MixedCNN
from .resnet import DecathlonResNet, ResNet26
from .small import MLP, SmallCNN
from .tcdcn import TCDCN
from .text import TextClassifier, TextModel
from .wrn import WRN, WideResNet

__all__ = [
    "MLP",
    "TCDCN",
    "WRN",
    "BertBase",
    "DecathlonResNet",
    "FeatureClassifier",
    "FeatureModel",
    "MiniLM",
    "MixedCNN",
    "Model",
    "PatchClassifier",
    "PatchFeatures",
    "ResNet26",
    "SmallCNN",
    "TextClassifier",
    "TextModel",
    "TimmEncoder",
    "WideResNet",
    "check_accepts",
    "models",
    "register_model",
]

"""Trained networks in use: runs read back, predictions, imputed labels as files."""

from .impute import Imputed, impute, imputed
from .predictions import Predictions
from .predictor import NotExported, Predictor, load
from .table import Given, LabelTable, given_of, held_out_of

__all__ = [
    "Given",
    "Imputed",
    "LabelTable",
    "NotExported",
    "Predictions",
    "Predictor",
    "given_of",
    "held_out_of",
    "impute",
    "imputed",
    "load",
]

"""Trained networks in use: runs read back, predictions, imputed labels as files."""

from .impute import Imputed, impute, imputed
from .predictions import Predictions
from .predictor import NotExported, Predictor, load

__all__ = ["Imputed", "NotExported", "Predictions", "Predictor", "impute", "imputed", "load"]

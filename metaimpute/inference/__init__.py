"""Trained networks in use: runs read back, predictions, imputed labels as files."""

from .impute import impute
from .predictions import Predictions
from .predictor import NotExported, Predictor, load

__all__ = ["NotExported", "Predictions", "Predictor", "impute", "load"]

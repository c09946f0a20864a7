"""Semi-supervised base methods, one file each; importing this package registers all of them."""

from .base import Method, MethodError, methods, register_method
from .fixmatch import FixMatch
from .mean_teacher import MeanTeacher
from .mixmatch import MixMatch
from .mixup import MixUp
from .pi_model import PiModel
from .pseudo_label import PseudoLabel
from .supervised import Supervised
from .uda import UDA
from .vat import VAT

__all__ = [
    "UDA",
    "VAT",
    "FixMatch",
    "MeanTeacher",
    "Method",
    "MethodError",
    "MixMatch",
    "MixUp",
    "PiModel",
    "PseudoLabel",
    "Supervised",
    "methods",
    "register_method",
]

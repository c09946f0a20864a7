"""Semi-supervised base methods, one file each; importing this package registers all of them."""

from .base import Method, MethodError, methods, register_method
from .fixmatch import FixMatch
from .mean_teacher import MeanTeacher
from .pseudo_label import PseudoLabel
from .supervised import Supervised
from .uda import UDA

__all__ = [
    "UDA", "FixMatch", "MeanTeacher", "Method", "MethodError", "PseudoLabel", "Supervised", "methods",
    "register_method",
]  # fmt: skip

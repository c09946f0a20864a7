"""What tasks give and methods and problems take: batches, views, outputs and how labels move. No data set, no method."""

from .batch import VIEW_KINDS, Batch, Imputation, InputKind, Labelled, Unlabelled, ViewKind
from .episodes import EpisodeClasses, EpisodeValues
from .motion import LabelMotion
from .outputs import Classes, Output, Values

__all__ = [
    "VIEW_KINDS",
    "Batch",
    "Classes",
    "EpisodeClasses",
    "EpisodeValues",
    "Imputation",
    "InputKind",
    "LabelMotion",
    "Labelled",
    "Output",
    "Unlabelled",
    "Values",
    "ViewKind",
]

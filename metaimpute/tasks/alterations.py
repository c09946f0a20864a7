"""Options that spoil a task on purpose: wrong labels, and unlabelled rows of classes that nobody labelled."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from ..ranges import BelowOne, Count, Natural, Share


class LabelNoise(BaseModel):
    """Wrong labels among the training labels; validation and test labels stay as they are.

    Attributes:
        kind: ``symmetric``: any other class, each as likely (as in Shu et al., 2019); ``pair``: the next class (Han et al.,
            2018); ``instance``: rows differ in how likely they are wrong, and their inputs decide the class (Xia et al., 2020,
            algorithm 2).
        rate: share of the labels outside ``trusted`` that are wrong: exactly for the first two kinds, on average for the third.
        trusted: so many labels, evenly over the classes, are right and known to be; ``problem.holdout: trusted`` draws hold-out
            batches from them.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["symmetric", "pair", "instance"] = "symmetric"
    rate: BelowOne = 0.4
    trusted: Natural = 0


class ClassMismatch(BaseModel):
    """Unlabelled rows of classes that no label has (Guo et al., 2020).

    Attributes:
        known: the first so many classes; labelled, validation and test rows of other classes are left out.
        rate: share of the unlabelled rows that are of the other classes; the pool is as large as the rate allows.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    known: Count
    rate: Share = 0.6

"""Real images, texts and a table as features of frozen encoders, on which heads are trained in a second.

Rows are those of the data sets of ``own_data/sets.py``, more of them than there; features are the encoders' without a label,
kept in metaimpute's cache after the first time, in the directions along which they vary most.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np
import torch
from torch import Tensor

from metaimpute import TaskData, register_task
from metaimpute.batches import ViewKind
from metaimpute.batches.outputs import Classes
from metaimpute.ranges import Count, Natural
from metaimpute.streams import Stream
from metaimpute.tasks.base import Missing, Pool, Task, TaskError
from metaimpute.tasks.splits import balanced_choice, generator, semi_supervised, without

from ..own_data.draws import feature_of
from ..own_data.features import COLUMNS, EFFICIENTNET, MINILM, Unavailable
from ..own_data.sets import BY_NAME, Absent, DataSet, tiny_imagenet
from .methods import slug

DIRECTIONS = 64
ENCODERS = {"images": EFFICIENTNET, "texts": MINILM, "table": COLUMNS}


def more_of(name: str, at_most: int) -> DataSet:
    """A data set of ``own_data/sets.py`` with more rows, and so with features of its own in the cache."""
    return dataclasses.replace(BY_NAME[name], name=f"{name} of the evidence", at_most=at_most)


SOURCES = {
    "tiny imagenet": dataclasses.replace(
        more_of("tiny imagenet, 5 x 10", 4000), read=partial(tiny_imagenet, 0, each=200, classes=20)
    ),
    "fashion-mnist": more_of("fashion-mnist, 10 x 25", 4000),
    "20 newsgroups": more_of("20 newsgroups", 4000),
    "satellite image": more_of("satellite image", 4000),
}


@lru_cache(maxsize=2)
def rows_of(source: str) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    """Features ``[n, at most DIRECTIONS]`` of unit mean square, classes ``[n]``, and their names.

    Raises:
        Absent: where the data is not here. Unavailable: where the encoder is not.
    """
    data_set = SOURCES[source]
    data = data_set.load()
    features, _ = feature_of(data_set, data, ENCODERS[data_set.form])
    rows = torch.from_numpy(features.astype(np.float64))
    rows = rows - rows.mean(0)
    if rows.shape[1] > DIRECTIONS:
        _, vectors = torch.linalg.eigh(rows.mT @ rows)
        rows = rows @ vectors[:, -DIRECTIONS:]
    names, classes = np.unique(data.truth.astype(str), return_inverse=True)
    return (rows / rows.square().mean().sqrt()).float(), torch.from_numpy(classes), tuple(names.tolist())


@register_task("frozen_features")
@dataclass
class FrozenFeatures(Task):
    """Features of a frozen encoder, few labels; ``test`` rows and validation rows are the same for every seed.

    Args:
        source: one of ``SOURCES``. width: of the features. classes: of the source.
    """

    input_kind = "vector"

    source: str = "tiny imagenet"
    labels: Count = 500
    validation: Natural = 100
    test: Count = 1000
    width: Count = DIRECTIONS
    classes: Count = 20

    @property
    def input_shape(self) -> tuple[int, ...]:
        return (self.width,)

    @property
    def output(self) -> Classes:
        return Classes(self.classes)

    def missing(self) -> list[Missing]:
        try:
            rows_of(self.source)
        except (Absent, Unavailable) as error:
            return [Missing(self.source, ("METAIMPUTE_DATA", "packages"), str(error))]
        return []

    def load(self, seed: int) -> TaskData:
        rows, targets, names = rows_of(self.source)
        if (rows.shape[1], len(names)) != (self.width, self.classes):
            raise TaskError(f"{self.source} has {rows.shape[1]} features and {len(names)} classes")
        pool = Pool(rows, targets, torch.arange(len(rows)))
        test = balanced_choice(targets, self.test, generator(0, Stream.TEST), self.classes, "test")
        return semi_supervised(
            pool.subset(without(len(pool), test)), pool.subset(test), labels=self.labels, validation=self.validation,
            classes=self.classes, seed=seed, include_labelled=self.unlabelled_includes_labelled, source=slug(self.source),
        )  # fmt: skip

    def view(self, raw: Tensor, kind: ViewKind, generator: torch.Generator) -> Tensor:
        if kind == "none":
            return raw
        spread = 0.1 if kind == "weak" else 0.3
        return raw + spread * torch.randn(raw.shape, generator=generator, device="cpu").to(raw)

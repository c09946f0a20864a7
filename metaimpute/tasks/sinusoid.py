"""Sine waves of random height and phase, each a regression task of a few points (Finn et al., ICML 2017, section 5.1)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..batches import ViewKind
from ..batches.episodes import EpisodeValues
from ..batches.outputs import Output
from ..engine.pytree import Tree
from ..ranges import Count, Natural
from ..streams import Stream
from .base import Pool, Task, TaskData, register_task
from .splits import generator

POINTS = 5.0  # x is drawn from -5 to 5
HEIGHT = (0.1, 5.0)


@register_task("sinusoid")
@dataclass
class Sinusoid(Task):
    """Sine waves of height 0.1 to 5 and phase 0 to pi, a few points each (Finn et al., 2017).

    Args:
        labels: waves to learn from. validation, test: others. shots: points of the support set. queries: of the query set.
    """

    input_kind = "vector"
    input_shape = (1,)
    episodes = True

    labels: Count = 20_000
    validation: Natural = 0
    test: Count = 600
    shots: Count = 10
    queries: Count = 10

    @property
    def output(self) -> Output:
        return EpisodeValues(1)

    def load(self, seed: int) -> TaskData:
        known = self._waves(self.labels, generator(seed, Stream.LABELS))
        held = self._waves(self.validation, generator(0, Stream.VALIDATION))
        tested = self._waves(self.test, generator(0, Stream.TEST))
        return TaskData(known, known.subset(torch.arange(1)), held, tested, "sine waves drawn by the seed")

    def _waves(self, count: int, rng: torch.Generator) -> Pool:
        """Points ``[count, shots + queries, 2]``; targets are the queries' ``[count, queries, 1]``."""
        drawn = torch.rand(count, 2, generator=rng, device="cpu")
        height = HEIGHT[0] + (HEIGHT[1] - HEIGHT[0]) * drawn[:, :1]
        x = POINTS * (2 * torch.rand(count, self.shots + self.queries, generator=rng, device="cpu") - 1)
        y = height * torch.sin(x - math.pi * drawn[:, 1:])
        points = torch.stack([x, y], -1)
        return Pool(points, points[:, self.shots :, 1:], torch.arange(count))

    def view(self, raw: Tensor, kind: ViewKind, generator: torch.Generator) -> Tree:
        support, query = raw[:, : self.shots], raw[:, self.shots :]
        return {"support": support[..., :1], "given": support[..., 1:], "query": query[..., :1]}

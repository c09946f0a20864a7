"""Two interleaved half circles: the smallest problem on which unlabelled data visibly helps."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..batches import ViewKind
from ..batches.outputs import Classes
from ..ranges import Count, Natural, NonNegative
from .base import Pool, Task, TaskData, register_task
from .splits import semi_supervised


@register_task("two_moons")
@dataclass
class TwoMoons(Task):
    """Two moons in the plane (scikit-learn's make_moons); views add Gaussian jitter.

    Args:
        size: training points. noise: standard deviation of the data's own noise.
        weak, strong: standard deviation of the views' jitter.
    """

    input_kind = "vector"
    input_shape = (2,)

    labels: Count = 4
    validation: Natural = 100
    size: Count = 1000
    noise: NonNegative = 0.1
    weak: NonNegative = 0.05
    strong: NonNegative = 0.15

    @property
    def output(self) -> Classes:
        return Classes(2)

    def load(self, seed: int) -> TaskData:
        train, test = (self._points(n, state) for n, state in ((self.size, 0), (1000, 1)))
        return semi_supervised(
            train,
            test,
            labels=self.labels,
            validation=self.validation,
            classes=2,
            seed=seed,
            include_labelled=self.unlabelled_includes_labelled,
            source="scikit-learn make_moons",
        )

    def _points(self, n: int, state: int) -> Pool:
        from sklearn.datasets import make_moons

        points, targets = make_moons(n, noise=self.noise, random_state=state)
        return Pool(torch.tensor(points, dtype=torch.float32), torch.tensor(targets), torch.arange(n))

    def view(self, raw: Tensor, kind: ViewKind, generator: torch.Generator) -> Tensor:
        if kind == "none":
            return raw
        spread = self.weak if kind == "weak" else self.strong
        return raw + spread * torch.randn(raw.shape, generator=generator, device="cpu").to(raw)

"""Features of images that are computed once, under a linear layer that is trained.

A concrete model says how features are computed; here is the network on top of them, how they are standardised, and how those
of an image or of a version of it are found again, in memory and, where the model keeps them, on disk.
"""

from __future__ import annotations

import contextlib
import itertools
import operator
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ..engine.pytree import Tree
from ..progress import Phase, phase
from ..ranges import BelowOne
from ..tasks.image_task import ImageVersion
from .base import Model
from .classifier import FeatureClassifier
from .kept_features import KeptFeatures, digest

KEPT_TOGETHER = 256  # an encoding that is interrupted loses no more
HELD = 200_000  # vectors in memory


def _unheard(more: int) -> None:
    """Nobody counts."""


@dataclass
class FeatureModel(Model):
    """Base of the models whose features of an image are computed once.

    Args:
        dropout: before the linear layer. standardize: shift and scale the features to zero mean and unit spread over a sample
            of unlabelled images, before training.
    """

    accepts = ("image",)
    head = "classifier"

    dropout: BelowOne = 0.3
    standardize: bool = True
    _known: dict[bytes, Tensor] = field(default_factory=dict, init=False, repr=False)
    _kept: KeptFeatures | None = field(default=None, init=False, repr=False)
    _device: torch.device = field(default=torch.device("cpu"), init=False, repr=False)
    _told: Callable[[int], None] = field(default_factory=lambda: _unheard, init=False, repr=False)

    def reason_against_workers(self, device: torch.device) -> str:
        return f"the features of model '{self.name}' are computed once, in the run's own process; leave it out"

    def encode(self, pixels: Tensor) -> Tensor:
        """``[n, width]`` from uint8 ``[n, c, h, w]``, on the CPU; a row depends on its own image alone, to the last bit.

        It may call ``_told`` with how many more it has encoded.
        """
        raise TypeError(f"{type(self).__name__} does not define encode()")

    def calibrate(self, module: nn.Module, inputs: Callable[[], Iterable[Tree]]) -> None:
        if self.standardize and isinstance(module, FeatureClassifier):
            module.standardize(inputs())

    def recall(self, versions: Sequence[ImageVersion]) -> dict[str, Tensor]:
        """Features of images, computed where they are not known."""
        return {"pooled": torch.stack(self._vectors(versions)[1]).to(self._device)}

    def remember(self, inputs: Iterable[ImageVersion]) -> int:
        """Runs the frozen encoder over the versions of images that no run has encoded before."""
        seen, left, done = set[bytes](), iter(inputs), 0
        with phase("encoding images", operator.length_hint(inputs) or None) as reached:
            while together := list(itertools.islice(left, KEPT_TOGETHER)):
                seen.update(self._vectors(together, reached)[0])
                done += len(together)
                reached.to(done)
        return len(seen)

    def _vectors(
        self, versions: Sequence[ImageVersion], reached: Phase | None = None
    ) -> tuple[list[bytes], list[Tensor]]:
        """A key and a vector for each; what is computed now is held in memory and kept on disk if it may be asked for again.

        Args:
            reached: the phase in which they are counted, if they are not one of their own.
        """
        keys = [digest(*version.content) for version in versions]
        found = {key: self._known[key] for key in keys if key in self._known}
        absent = {key: version for key, version in zip(keys, versions, strict=True) if key not in found}
        asked = [key for key, version in absent.items() if version.recurs] if self._kept is not None else []
        stored = self._kept.get(asked) if self._kept is not None and asked else {}
        new = {key: version for key, version in absent.items() if key not in stored}
        if new:
            computed = self._encoded(torch.stack([version.pixels() for version in new.values()]), reached)
            found.update(zip(new, computed, strict=True))
            again = {key: found[key] for key, version in new.items() if version.recurs}
            if self._kept is not None and again:
                self._kept.put(again)
            stored = stored | again
        if len(self._known) < HELD:
            self._known.update(stored)
        found.update(stored)
        return keys, [found[key] for key in keys]

    def _encoded(self, pixels: Tensor, reached: Phase | None) -> Tensor:
        with phase("encoding images", len(pixels)) if reached is None else contextlib.nullcontext(reached) as counting:
            self._told = counting.advance
            try:
                return self.encode(pixels)
            finally:
                self._told = _unheard

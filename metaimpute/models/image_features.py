"""Features of images that are computed once, under a linear layer that is trained.

A concrete model says how features are computed; here is the network on top of them, how they are standardised, and how those
of an image or of a version of it are found again, in memory and, where the model keeps them, on disk.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ..engine.pytree import Tree
from ..ranges import BelowOne
from ..tasks.image_task import ImageVersion
from .base import Model
from .classifier import FeatureClassifier
from .kept_features import KeptFeatures, digest

KEPT_TOGETHER = 256  # an encoding that is interrupted loses no more
HELD = 200_000  # vectors in memory


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

    def encode(self, pixels: Tensor) -> Tensor:
        """``[n, width]`` from uint8 ``[n, c, h, w]``, on the CPU; a row depends on its own image alone, to the last bit."""
        raise TypeError(f"{type(self).__name__} does not define encode()")

    def calibrate(self, module: nn.Module, inputs: Callable[[], Iterable[Tree]]) -> None:
        if self.standardize and isinstance(module, FeatureClassifier):
            module.standardize(inputs())

    def recall(self, versions: Sequence[ImageVersion]) -> dict[str, Tensor]:
        """Features of images, computed where they are not known."""
        return {"pooled": torch.stack(self._vectors(versions)[1]).to(self._device)}

    def remember(self, inputs: Iterable[ImageVersion]) -> int:
        """Runs the frozen encoder over the versions of images that no run has encoded before."""
        seen, left = set[bytes](), iter(inputs)
        while together := list(itertools.islice(left, KEPT_TOGETHER)):
            seen.update(self._vectors(together)[0])
        return len(seen)

    def _vectors(self, versions: Sequence[ImageVersion]) -> tuple[list[bytes], list[Tensor]]:
        """A key and a vector for each; what is computed now is held in memory and kept on disk if it may be asked for again."""
        keys = [digest(*version.content) for version in versions]
        found = {key: self._known[key] for key in keys if key in self._known}
        absent = {key: version for key, version in zip(keys, versions, strict=True) if key not in found}
        asked = [key for key, version in absent.items() if version.recurs] if self._kept is not None else []
        stored = self._kept.get(asked) if self._kept is not None and asked else {}
        new = {key: version for key, version in absent.items() if key not in stored}
        if new:
            computed = self.encode(torch.stack([version.pixels() for version in new.values()]))
            found.update(zip(new, computed, strict=True))
            again = {key: found[key] for key, version in new.items() if version.recurs}
            if self._kept is not None and again:
                self._kept.put(again)
            stored = stored | again
        if len(self._known) < HELD:
            self._known.update(stored)
        found.update(stored)
        return keys, [found[key] for key in keys]

"""Features of images without any pretrained network: how near their patches are to learned ones, and their edges' directions.

Coates and Ng, "Learning feature representations with k-means" (2012), after Coates, Ng and Lee (AISTATS 2011). Patches of
unlabelled images, each brought to zero mean and unit contrast, are whitened and clustered by k-means; a patch then says of
every centre how much nearer than on average it is, and what the patches of one field of a grid say is averaged. Beside that,
histograms of oriented gradients (Dalal and Triggs, CVPR 2005).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..engine.pytree import Tree
from ..ranges import Count
from ..tasks.base import TaskError
from ..tasks.image_task import ImageVersion
from .base import register_model
from .classifier import FeatureClassifier
from .image_features import FeatureModel

LEVEL = 1 / 255  # of grey
CONTRAST = 10 * LEVEL**2  # added to a patch's variance: a plain patch is not blown up to noise
WHITENING = 0.1  # added to the variance along each direction
DRAWN = 100  # patches of an image that k-means sees
BINS, CELLS, BLOCK = 9, 4, 2
CLIPPED = 0.2


def oriented_gradients(images: Tensor) -> Tensor:
    """Histograms of oriented gradients, ``[n, 324]`` from float images ``[n, c, h, w]`` in [0, 1].

    Nine directions without sign, a gradient shared by its two nearest; 4 x 4 cells; blocks of 2 x 2 cells scaled to length 1,
    clipped at 0.2 and scaled again. A pixel's gradient is that of the channel where it is largest.
    """
    wide = F.pad(images, (1, 1, 1, 1), mode="replicate")
    right = wide[:, :, 1:-1, 2:] - wide[:, :, 1:-1, :-2]
    down = wide[:, :, 2:, 1:-1] - wide[:, :, :-2, 1:-1]
    size, channel = (right.square() + down.square()).sqrt().max(1, keepdim=True)
    angle = torch.atan2(down.gather(1, channel), right.gather(1, channel)).remainder(math.pi)
    place = angle * (BINS / math.pi) - 0.5
    lower = place.floor()
    share, first = place - lower, lower.long() % BINS
    votes = torch.zeros(len(images), BINS, *images.shape[2:], dtype=images.dtype, device=images.device)
    votes.scatter_add_(1, first, size * (1 - share)).scatter_add_(1, (first + 1) % BINS, size * share)
    blocks = F.unfold(F.adaptive_avg_pool2d(votes, CELLS), BLOCK)  # [n, 4 * BINS, 9]
    for most in (CLIPPED, 1.0):
        blocks = (blocks / (blocks.square().sum(1, keepdim=True) + LEVEL**2).sqrt()).clamp_max(most)
    return blocks.flatten(1)


class PatchClassifier(FeatureClassifier):
    """Patch and edge features under a :class:`FeatureClassifier`; the patches are buffers, zero until :meth:`learn`.

    Args:
        channels: of the images. side: to which larger images are reduced. patch: side of a patch. clusters: number of centres.
        grid: fields along each side of an image.
    """

    def __init__(
        self, channels: int, side: int, patch: int, clusters: int, grid: int, outputs: int, dropout: float
    ) -> None:
        edges = BINS * BLOCK**2 * (CELLS - BLOCK + 1) ** 2
        super().__init__(clusters * grid**2 + edges, outputs, dropout)
        self.side, self.patch, self.grid = side, patch, grid
        self.centre: Tensor
        self.whiten: Tensor
        self.centres: Tensor
        self.register_buffer("centre", torch.zeros(channels * patch**2))
        self.register_buffer("whiten", torch.zeros(channels * patch**2, channels * patch**2))
        self.register_buffer("centres", torch.zeros(clusters, channels * patch**2))

    @property
    def has_learnt(self) -> bool:
        return bool(self.whiten.any())

    def reduced(self, images: Tensor) -> Tensor:
        """Images no larger than ``side``."""
        if max(images.shape[-2:]) <= self.side:
            return images
        return F.interpolate(images, size=(self.side, self.side), mode="bilinear", antialias=True, align_corners=False)

    def patches(self, images: Tensor) -> Tensor:
        """Every patch of images that are reduced, at zero mean and unit contrast: ``[n, places, values]``."""
        found = F.unfold(images, self.patch).transpose(1, 2)
        found = found - found.mean(-1, keepdim=True)
        return found / (found.square().mean(-1, keepdim=True) + CONTRAST).sqrt()

    def learn(self, images: Tensor) -> None:
        """Whitening and centres from patches of float images ``[n, c, h, w]`` in [0, 1]; the same for the same images."""
        from sklearn.cluster import MiniBatchKMeans

        rng, drawn = torch.Generator(device="cpu").manual_seed(0), []
        for image in self.reduced(images).split(1):
            found = self.patches(image)[0]
            drawn.append(found[torch.randint(len(found), (DRAWN,), generator=rng, device="cpu").to(found.device)])
        values = torch.cat(drawn).double().cpu()
        if len(values) < len(self.centres):
            few = f"{len(images)} unlabelled images have {len(values):,} patches for {len(self.centres):,} clusters"
            raise TaskError(f"model 'patches': {few}; set model.clusters lower")
        centre = values.mean(0)
        spread, directions = torch.linalg.eigh(torch.cov((values - centre).T))
        whiten = directions @ torch.diag((spread.clamp_min(0) + WHITENING).rsqrt()) @ directions.T
        whitened = ((values - centre) @ whiten).float().numpy()
        kmeans = MiniBatchKMeans(len(self.centres), random_state=0, n_init=1, batch_size=2048, max_iter=30).fit(
            whitened
        )
        self.centre.copy_(centre)
        self.whiten.copy_(whiten)
        self.centres.copy_(torch.from_numpy(kmeans.cluster_centers_))

    def features(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            return torch.cat(
                [self._features(image) for image in self.reduced(images).split(1)]
            )  # a row is its own image's

    def _features(self, image: Tensor) -> Tensor:
        values = (self.patches(image)[0] - self.centre) @ self.whiten
        distance = torch.cdist(values, self.centres)
        nearer = (distance.mean(1, keepdim=True) - distance).clamp_min(0)
        rows, columns = (length - self.patch + 1 for length in image.shape[-2:])
        fields = F.adaptive_avg_pool2d(nearer.T.reshape(1, -1, rows, columns), self.grid).flatten(1)
        return torch.cat([fields, oriented_gradients(image)], 1)


@register_model("patches")
@dataclass
class PatchFeatures(FeatureModel):
    """Distances to patches learned by k-means on the unlabelled images, and edge histograms, with a linear layer.

    Nothing has to be fetched. Features are computed once per image and per version of it (the task's ``copies``).

    Args:
        clusters: patches learned. patch: their side in pixels. grid: fields along each side of an image, over each of which
            an average is taken. input_size: side to which larger images are reduced. dropout, standardize: as in
            :class:`FeatureModel`.
    """

    clusters: Count = 200
    patch: Count = 6
    grid: Count = 4
    input_size: Count = 32
    _module: PatchClassifier | None = field(default=None, init=False, repr=False)

    def build(self, input_shape: tuple[int, ...], outputs: int) -> nn.Module:
        least = max(self.patch + self.grid - 1, CELLS)
        side = min(self.input_size, *input_shape[1:]) if len(input_shape) == 3 else 0
        if side < least:
            seen = f"of shape {input_shape}, reduced to {self.input_size}"
            raise TaskError(f"model 'patches' needs images of at least {least} x {least} pixels, not inputs {seen}")
        self._known = {}
        self._module = PatchClassifier(
            input_shape[0], self.input_size, self.patch, self.clusters, self.grid, outputs, self.dropout
        )
        return self._module

    def preprocess(self, device: torch.device) -> Callable[[list[ImageVersion]], Any]:
        self._device = device
        return self._prepared

    def _prepared(self, versions: Sequence[ImageVersion]) -> Any:
        """Features; while no patches are learned, the pixels that they are learned from."""
        assert self._module is not None
        if self._module.has_learnt:
            return self.recall(versions)
        return torch.stack([version.pixels() for version in versions]).to(self._device) / 255

    def calibrate(self, module: nn.Module, inputs: Callable[[], Iterable[Tree]]) -> None:
        if isinstance(module, PatchClassifier):
            seen = list(inputs())
            if not seen:
                raise TaskError("model 'patches' learns from unlabelled images, and there are none")
            module.learn(torch.cat(seen))
            super().calibrate(module, lambda: seen)

    def encode(self, pixels: Tensor) -> Tensor:
        assert self._module is not None
        return self._module.features(pixels.to(self._device) / 255).cpu()

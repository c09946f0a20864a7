"""What the tasks of classes of images share: views as pixels, and versions of an image that a frozen encoder sees once each."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..batches import ViewKind
from ..engine.pytree import Tree
from ..ranges import Count
from .base import Pool, Task, TaskData
from .lazy import Sized

READ_TOGETHER = 256


@dataclass(frozen=True)
class ImageVersion:
    """An image, or a numbered version of one that is not made before its pixels are asked for.

    Attributes:
        image: uint8 ``[c, h, w]``. number: of the version, None for the image as it is.
        make: makes version ``number`` of an image, ``[c, side, side]``. how: stands for all else that decides what it makes.
        recurs: whether it may be asked for again, so that what is computed of it is worth keeping.
    """

    image: Tensor
    number: int | None = None
    make: Callable[[Tensor, int], Tensor] | None = None
    how: str = ""
    recurs: bool = True

    @property
    def content(self) -> tuple[bytes, ...]:
        """Bytes that are equal for two versions where their pixels are."""
        made = f"{tuple(self.image.shape)} {self.how} {self.number}".encode()
        return made, self.image.numpy().tobytes()

    def pixels(self) -> Tensor:
        """uint8 ``[c, side, side]``."""
        if self.number is None or self.make is None:
            return self.image
        return self.make(self.image, self.number)


@dataclass
class ImageTask(Task):
    """Base of the tasks that classify images.

    Args:
        copies: strong versions there are of each image, where the model is a frozen encoder: weak views are then the image
            itself, and everything is encoded once. None: any number.
    """

    input_kind = "image"

    copies: Count | None = None

    def windows(self, raw: Any, kind: ViewKind, generator: torch.Generator) -> Tensor:
        """uint8 ``[n, c, side, side]`` of raw examples: what of each image a view is made of."""
        found: Tensor = raw
        return found

    def augmented(self, windows: Tensor, kind: ViewKind, generator: torch.Generator) -> Tensor:
        """uint8 ``[n, c, side, side]``, windows under a random view, on their device."""
        raise TypeError(f"{type(self).__name__} does not define augmented()")

    def pixels(self, raw: Any, kind: ViewKind, generator: torch.Generator) -> Tensor:
        """uint8 ``[n, c, side, side]`` of raw examples under a random view."""
        return self.augmented(self.windows(raw, kind, generator), kind, generator)

    def normalized(self, pixels: Tensor) -> Tensor:
        """Model inputs ``[n, c, side, side]`` from pixels, for a model that does not prepare its own."""
        raise TypeError(f"{type(self).__name__} does not define normalized()")

    def views_are(self) -> str:
        """Stands for every option that :meth:`pixels` depends on."""
        raise TypeError(f"{type(self).__name__} does not define views_are()")

    def view(self, raw: Any, kind: ViewKind, generator: torch.Generator) -> Tree:
        if self.prepare_inputs is None:
            return self.normalized(self.pixels(raw, kind, generator))
        return self.prepare_inputs(self.versions(raw, kind, generator))

    @property
    def views_on_device(self) -> bool:
        return type(self).pixels is ImageTask.pixels and type(self).view is ImageTask.view

    def begun_view(self, raw: Any, kind: ViewKind, generator: torch.Generator) -> Tensor:
        return self.windows(raw, kind, generator)

    def finished_view(self, begun: Tensor, kind: ViewKind, generator: torch.Generator) -> Tensor:
        return self.normalized(self.augmented(begun, kind, generator))

    def versions(self, raw: Any, kind: ViewKind, generator: torch.Generator) -> list[ImageVersion]:
        """A view of each image, for a model that prepares its own inputs."""
        if kind == "none" or self.copies is None:
            return [ImageVersion(one, recurs=kind == "none") for one in self.pixels(raw, kind, generator)]
        if kind == "weak":
            return [ImageVersion(one) for one in self.pixels(raw, "none", generator)]
        numbers = torch.randint(self.copies, (len(raw),), generator=generator, device="cpu")
        return [self.version(image, number) for image, number in zip(raw, numbers.tolist(), strict=True)]

    def version(self, image: Tensor, number: int) -> ImageVersion:
        """Strong version ``number`` of an image, a function of the two alone."""
        return ImageVersion(image, number, self._made, self.views_are())

    def _made(self, image: Tensor, number: int) -> Tensor:
        digest = hashlib.blake2b(image.numpy().tobytes(), digest_size=6)
        seed = int.from_bytes(digest.digest(), "little") * 1024 + number
        return self.pixels(image[None], "strong", torch.Generator(device="cpu").manual_seed(seed))[0]

    def distinct_inputs(self, data: TaskData, unlabelled: bool) -> Sized[ImageVersion] | None:
        if self.copies is None or self.prepare_inputs is None:
            return None
        pools = [data.labelled, data.unlabelled] if unlabelled else [data.labelled]
        return Sized(self._every_version(pools, self.copies), (1 + self.copies) * sum(map(len, pools)))

    def _every_version(self, pools: Sequence[Pool], copies: int) -> Iterator[ImageVersion]:
        rng = torch.Generator(device="cpu")
        for pool in pools:
            for index in torch.arange(len(pool)).split(READ_TOGETHER):
                raw: Sequence[Tensor] = pool.take(index)  # type: ignore[assignment]
                for image, plain in zip(raw, self.versions(raw, "none", rng), strict=True):
                    yield plain
                    yield from (self.version(image, number) for number in range(copies))

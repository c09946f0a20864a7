"""Few-shot classification: episodes of a few classes, a few images each, from classes that are not those of the test.

N ways and K shots as in Vinyals et al. ("Matching networks", NeurIPS 2016). Omniglot (Lake et al., 2015) and mini-ImageNet are
folders of images by class; scikit-learn's digits need no download.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from ..batches import ViewKind
from ..batches.episodes import EpisodeClasses
from ..batches.outputs import Output
from ..engine.pytree import Tree
from ..ranges import Count, Natural
from ..streams import Stream
from .base import Missing, MissingData, Pool, Task, TaskData, TaskError, register_task
from .image_listing import class_folders, images_in
from .image_reading import read_image
from .locate import expanded
from .splits import generator


@dataclass
class FewShot(Task):
    """Episodes of images. A row holds the numbers of its images, which :meth:`view` looks up.

    Args:
        labels: episodes to learn from. validation, test: others, of classes not seen in training. ways: classes of an episode.
        shots: support images of each. queries: query images of each.
    """

    input_kind = "image"
    episodes = True

    labels: Count = 5000
    validation: Natural = 0
    test: Count = 200
    ways: Count = 5
    shots: Count = 1
    queries: Count = 5
    images: Tensor = field(default_factory=lambda: torch.zeros(0), init=False, repr=False)

    @property
    def output(self) -> Output:
        return EpisodeClasses(self.ways)

    @abstractmethod
    def classes(self) -> tuple[Tensor, dict[str, list[Tensor]], str]:
        """All images ``[n, channels, h, w]``, numbers of those of each class by part (train, validation, test), the source."""

    def load(self, seed: int) -> TaskData:
        self.images, parts, source = self.classes()
        known = self._episodes(self.labels, parts["train"], generator(seed, Stream.LABELS), "train")
        held = self._episodes(self.validation, parts["validation"], generator(0, Stream.VALIDATION), "validation")
        tested = self._episodes(self.test, parts["test"], generator(0, Stream.TEST), "test")
        return TaskData(known, known.subset(torch.arange(1, device="cpu")), held, tested, source)

    def _episodes(self, count: int, classes: list[Tensor], rng: torch.Generator, part: str) -> Pool:
        """Numbers of images ``[count, ways, shots + queries]``; targets are the queries' ``[count, ways * queries]``."""
        each = self.shots + self.queries
        usable = [members for members in classes if len(members) >= each]
        if count and len(usable) < self.ways:
            raise TaskError(f"ways: {self.ways} classes of {each} images asked, and the {part} part has {len(usable)}")
        rows = torch.zeros(count, self.ways, each, dtype=torch.long, device="cpu")
        for row in rows:
            for place, label in enumerate(
                torch.randperm(len(usable), generator=rng, device="cpu")[: self.ways].tolist()
            ):
                row[place] = usable[label][torch.randperm(len(usable[label]), generator=rng, device="cpu")[:each]]
        return Pool(rows, self._numbers(count, self.queries), torch.arange(count, device="cpu"))

    def _numbers(self, count: int, each: int) -> Tensor:
        """The class of each point of an episode, ``[count, ways * each]``."""
        return torch.arange(self.ways).repeat_interleave(each).expand(count, -1)

    def view(self, raw: Tensor, kind: ViewKind, generator: torch.Generator) -> Tree:
        support, query = raw[..., : self.shots].flatten(1), raw[..., self.shots :].flatten(1)
        given = self._numbers(len(raw), self.shots)
        return {"support": self.images[support], "given": given, "query": self.images[query]}


@register_task("few_shot_digits")
@dataclass
class FewShotDigits(FewShot):
    """Scikit-learn's digits: episodes of 0 to 5 to learn from, of 6 to 9 to be tested by."""

    input_shape = (1, 8, 8)
    ways: Count = 3

    def classes(self) -> tuple[Tensor, dict[str, list[Tensor]], str]:
        from sklearn.datasets import load_digits

        pixels, digits = load_digits(return_X_y=True)
        images = torch.tensor(pixels, dtype=torch.float32).view(-1, 1, 8, 8) / 16.0
        members = [torch.tensor((digits == label).nonzero()[0]) for label in range(10)]
        return images, {"train": members[:6], "validation": members[6:], "test": members[6:]}, "scikit-learn digits"


@register_task("few_shot_images")
@dataclass
class FewShotImages(FewShot):
    """Folders ``train``, ``validation`` (or ``val``) and ``test``, each with a folder of images per class, as Omniglot's and
    mini-ImageNet's are.

    Args:
        folder: that holds them. side: pixels of the images, which are cut to squares. grey: whether they have one channel.
    """

    folder: str = ""
    side: Count = 28
    grey: bool = True

    def check(self) -> None:
        self.input_shape = (1 if self.grey else 3, self.side, self.side)  # type: ignore[misc]  # an option's, not the class's

    def missing(self) -> list[Missing]:
        found = expanded(self.folder) if self.folder else Path()
        lacking = (
            [part for part in ("train", "test") if not (found / part).is_dir()] if self.folder else ["train", "test"]
        )
        remedy = "name the folder that holds them: task.folder"
        return (
            [Missing(f"few-shot images ({', '.join(lacking)}/)", (self.folder or "task.folder",), remedy)]
            if lacking
            else []
        )

    def classes(self) -> tuple[Tensor, dict[str, list[Tensor]], str]:
        if absent := self.missing():
            raise MissingData(absent)
        root, images, parts = expanded(self.folder), list[Tensor](), dict[str, list[Tensor]]()
        for part, names in (("train", ["train"]), ("validation", ["validation", "val"]), ("test", ["test"])):
            parts[part] = []
            place = next((root / name for name in names if (root / name).is_dir()), None)
            for folder in class_folders(place).values() if place else ():
                files = images_in(folder)
                parts[part].append(torch.arange(len(images), len(images) + len(files)))
                images += [self._pixels(path) for path in files]
        if not images:
            raise TaskError(f"folder: {self.folder} holds no images in class folders")
        return torch.stack(images), parts, str(root)

    def _pixels(self, path: Path) -> Tensor:
        colour = read_image(path, self.side).float() / 255
        top, left = ((length - self.side) // 2 for length in colour.shape[1:])
        square = colour[:, top : top + self.side, left : left + self.side]
        return square.mean(0, keepdim=True) if self.grey else square

"""Data that stand in for real ones where only their number and sizes cost: images of noise, and texts of drawn words."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch

from metaimpute.batches.outputs import Classes
from metaimpute.ranges import Count
from metaimpute.streams import Stream
from metaimpute.tasks.base import Pool, TaskData, register_task
from metaimpute.tasks.cifar import Cifar10
from metaimpute.tasks.splits import generator, semi_supervised


@register_task("drawn_images")
@dataclass
class DrawnImages(Cifar10):
    """Images of noise with the views of CIFAR-10, for timing.

    Args:
        side: pixels. outputs: classes.
    """

    images: ClassVar[int] = 4000

    side: Count = 32
    outputs: Count = 10

    @property
    def input_shape(self) -> tuple[int, ...]:  # type: ignore[override]  # of the size asked for
        return (3, self.side, self.side)

    def missing(self) -> list[Any]:
        return []

    @property
    def output(self) -> Classes:
        return Classes(self.outputs)

    @property
    def label_names(self) -> list[str]:
        return [str(number) for number in range(self.outputs)]

    def load(self, seed: int) -> TaskData:
        rng = generator(0, Stream.TEST)
        size = (self.images, 3, self.side, self.side)
        pixels = torch.randint(0, 256, size, generator=rng, device="cpu", dtype=torch.uint8)
        pool = Pool(pixels, torch.arange(self.images) % self.outputs, torch.arange(self.images))
        return semi_supervised(
            pool, pool.subset(torch.arange(100)), labels=self.labels, validation=0, classes=self.outputs, seed=seed,
            source="drawn images",
        )  # fmt: skip


WORDS = [a + b + c for a in "bdfgklmnpr" for b in "aeiou" for c in "bdgklmnprst"]


def drawn_reviews(folder: Path, each: int = 300, words: int = 200) -> None:
    """``aclImdb/`` and ``bert-base-uncased/``, a vocabulary of the drawn words, in a folder where data are looked for."""
    from transformers import BertConfig, BertTokenizerFast

    draw = random.Random(0)
    for part in ("train/pos", "train/neg", "train/unsup", "test/pos", "test/neg"):
        place = folder / "aclImdb" / part
        place.mkdir(parents=True)
        for number in range(each):
            (place / f"{number}_7.txt").write_text(" ".join(draw.choices(WORDS, k=words)))
    vocabulary = folder / "bert-base-uncased"
    vocabulary.mkdir()
    (vocabulary / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]) + "\n")
    BertTokenizerFast(str(vocabulary / "vocab.txt")).save_pretrained(vocabulary)
    BertConfig().save_pretrained(vocabulary)

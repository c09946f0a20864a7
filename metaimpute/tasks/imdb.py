"""Sentiment of movie reviews: the IMDb Large Movie Review Dataset, or rated movie snippets in its place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, overload

import torch

from ..batches.outputs import Classes
from ..ranges import Count, Natural, NonNegative
from ..streams import Stream
from .base import Missing, MissingData, Pool, TaskData, TaskError, register_task
from .lazy import LazyPool
from .locate import data_folders, find
from .snippets import fetch_snippets, find_snippets, read_snippets
from .splits import balanced_choice, generator, semi_supervised, without
from .text_augment import read_back_translations
from .text_task import TextTask

SNIPPET_TEST = 2000


class Files(Sequence[str]):
    """Texts that are read from their files when asked for."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = list(paths)

    def __len__(self) -> int:
        return len(self.paths)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Files: ...
    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return Files(self.paths[index])
        return self.paths[index].read_text(encoding="utf-8").replace("<br />", " ")


@register_task("imdb")
@dataclass
class IMDb(TextTask):
    """Movie-review sentiment, two classes (Maas et al., ACL 2011).

    IMDb is looked for as a raw ``aclImdb/`` folder, as a ``datasets`` folder ``imdb/`` (save_to_disk), and in the
    ``datasets`` cache of ``stanfordnlp/imdb``. Training reviews that are not labelled join the 50,000 unlabelled ones.

    Args:
        labels: labelled reviews in all, balanced. validation: labelled reviews kept for choosing settings.
        source: ``imdb``; ``snippets``; or ``imdb_or_snippets``, IMDb if it is found and the snippets otherwise.
        unlabelled: at most so many unlabelled texts (a fixed random sample), None for all.
        shortest: IMDb's reviews without a label that have fewer characters are left out, a line break counting as one; UDA
            (Xie et al., NeurIPS 2020) leaves out 5,028 of the 50,000 with 500. Training reviews and snippets all stay.
        neutral: snippets rated within this of zero (scale -4 to 4) are left out.
        replace: mean share of words replaced in a strong view. crop: share of the words that a passage keeps; below 1, every
            other strong view is a random passage of the text in place of a replacement.
        copies: strong versions there are of each text, as a file of back-translations has one; None: any number.
        back_translations: file with one back-translated text per line, in the order of the unlabelled pool.
    """

    labels: Count = 20
    validation: Natural = 0
    source: Literal["imdb", "snippets", "imdb_or_snippets"] = "imdb"
    unlabelled: Count | None = None
    shortest: Natural = 0
    neutral: NonNegative = 0.5
    back_translations: str | None = None
    _translated: dict[str, str] | None = field(default=None, init=False, repr=False)

    @property
    def output(self) -> Classes:
        return Classes(2)

    @property
    def label_names(self) -> list[str]:
        return ["negative", "positive"]

    def missing(self) -> list[Missing]:
        absent = []
        if self.source == "imdb" and find_imdb() is None:
            absent.append(_missing_imdb())
        if self.back_translations and not Path(self.back_translations).exists():
            absent.append(
                Missing("back-translations", (self.back_translations,), "give one text per line, or leave it out")
            )
        return absent

    def load(self, seed: int) -> TaskData:
        if self.missing():
            raise MissingData(self.missing())
        found = None if self.source == "snippets" else find_imdb()
        if found is not None:
            train, extra, test, source = _read_imdb(found)
            extra = self._long_enough(extra)
        else:
            train, test, source = self._read_snippets()
            extra = None
        data = semi_supervised(
            train, test, labels=self.labels, validation=self.validation, classes=2, seed=seed,
            include_labelled=self.unlabelled_includes_labelled, source=source, extra_unlabelled=extra,
        )  # fmt: skip
        if self.unlabelled is not None and self.unlabelled < len(data.unlabelled):
            kept = torch.randperm(
                len(data.unlabelled), generator=generator(seed, Stream.FEWER_UNLABELLED), device="cpu"
            )[: self.unlabelled]
            data = TaskData(data.labelled, data.unlabelled.subset(kept), data.validation, data.test, source)
        self._read_translations(data.unlabelled)
        self.fit_augmentation(data.unlabelled)
        return data

    def _long_enough(self, extra: Pool) -> Pool:
        if not self.shortest:
            return extra  # unread
        kept = [row for row, text in enumerate(extra.inputs) if len(text) >= self.shortest]
        return extra.subset(torch.tensor(kept, dtype=torch.long))

    def _read_snippets(self) -> tuple[Pool, Pool, str]:
        path = find_snippets() or fetch_snippets()
        texts, labels = read_snippets(path, self.neutral)
        targets = torch.tensor(labels)
        pool = LazyPool(texts, targets, torch.arange(len(texts)))
        test = balanced_choice(targets, SNIPPET_TEST, generator(0, Stream.TEST), 2, "test")
        rest = without(len(pool), test)
        return pool.subset(rest), pool.subset(test), "movie snippets (Hutto and Gilbert, 2014)"

    def _read_translations(self, pool: Pool) -> None:
        if self.back_translations:
            originals = list(pool.inputs)
            try:
                lines = read_back_translations(Path(self.back_translations), originals)
            except ValueError as error:
                raise TaskError(f"back_translations: {error}") from None
            self._translated = dict(zip(originals, lines, strict=True))

    def check(self) -> None:
        super().check()
        if self.copies is not None and (self.copies < 1 or self.back_translations):
            raise TaskError("copies: at least 1, and none beside back_translations, which are one version per text")

    def strong(self, texts: list[str], generator: torch.Generator) -> list[str]:
        """The back-translation of a text where there is one, else a passage or word replacement."""
        known = self._translated or {}
        drawn = super().strong(texts, generator)
        return [known.get(text, version) for text, version in zip(texts, drawn, strict=True)]


def _missing_imdb() -> Missing:
    looked = (*(str(folder / "aclImdb") for folder in data_folders()), "the datasets cache (stanfordnlp/imdb)")
    return Missing("IMDb reviews", looked, "get them with: metaimpute data get imdb")


def _datasets_cache() -> Path | None:
    from datasets import config

    for name in ("stanfordnlp___imdb", "imdb"):
        if (Path(config.HF_DATASETS_CACHE) / name).exists():
            return Path(config.HF_DATASETS_CACHE) / name
    return None


def find_imdb() -> tuple[str, Path] | None:
    folder = find("aclImdb", "train/pos")
    if folder is not None:
        return "folder", folder
    saved = find("imdb", "dataset_dict.json")
    if saved is not None:
        return "saved", saved
    cached = _datasets_cache()
    return None if cached is None else ("cache", cached)


def _read_imdb(found: tuple[str, Path]) -> tuple[Pool, Pool, Pool, str]:
    """Training, unlabelled and test pools, and a line that says where they came from."""
    kind, path = found
    if kind == "folder":
        train, test = (_folder_pool(path / part, ("neg", "pos")) for part in ("train", "test"))
        extra = _folder_pool(path / "train", ("unsup",))
        return train, _after(train, extra), test, f"IMDb ({len(test):,} test reviews)"
    import datasets

    if kind == "saved":
        parts: Any = datasets.load_from_disk(str(path))
    else:
        offline = datasets.DownloadConfig(local_files_only=True)
        parts = datasets.load_dataset("stanfordnlp/imdb", download_config=offline)
    pools = {}
    for part in ("train", "unsupervised", "test"):
        targets = torch.tensor(parts[part]["label"])
        texts = [text.replace("<br />", " ") for text in parts[part]["text"]]
        pools[part] = LazyPool(texts, targets, torch.arange(len(texts)))
    train, test = pools["train"], pools["test"]
    return train, _after(train, pools["unsupervised"]), test, f"IMDb ({len(test):,} test reviews)"


def _after(train: LazyPool, extra: LazyPool) -> LazyPool:
    """Reviews without labels, numbered on from the training reviews."""
    return LazyPool(extra.inputs, None, extra.ids + len(train))


def _folder_pool(folder: Path, classes: tuple[str, ...]) -> LazyPool:
    paths: list[Path] = []
    targets: list[int] = []
    for label, name in enumerate(classes):
        files = sorted((folder / name).glob("*.txt"))
        paths += files
        targets += [label] * len(files)
    if not paths:
        raise MissingData(Missing(f"reviews in {folder}", (str(folder),), "unpack the archive again"))
    return LazyPool(Files(paths), torch.tensor(targets), torch.arange(len(paths)))

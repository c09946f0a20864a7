"""Data and weights by name: what can be downloaded, and how to get the rest."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .models.bert import BERT, BERT_REVISION, BertBase
from .tasks.aflw import AFLW, find_aflw
from .tasks.base import MissingData, Task
from .tasks.cifar import Cifar10, Cifar100
from .tasks.fashion_mnist import find_fashion_mnist
from .tasks.image_folder import ImageNet72, TinyImageNet
from .tasks.imdb import find_imdb
from .tasks.locate import cache_folder
from .tasks.mtfl import MTFL, find_mtfl
from .tasks.sdist import NotFetched
from .tasks.snippets import fetch_snippets, find_snippets

IMDB_REVISION = "e6281661ce1c48d982bc483cf8a173c1bbeb5d31"  # a commit: the reviews of today are those of yesterday


@dataclass(frozen=True)
class Source:
    """Data or weights: where they are, if they are here, and how to get them.

    Attributes:
        by_hand: only a person can get it; ``get`` then says from where, and where it is to lie.
    """

    find: Callable[[], Any]
    get: Callable[[], Any]
    by_hand: bool = False

    def how(self, name: str) -> str:
        """What to do when it is not here."""
        return (
            f"by hand ({name} cannot be downloaded): metaimpute data get {name} says how"
            if self.by_hand
            else (f"metaimpute data get {name}")
        )


def _download(what: str, download: Callable[[], Any], by_hand: str, where: str = "the Hugging Face hub") -> Any:
    """Runs a download and turns its many kinds of failure into one that says what to do.

    Raises:
        NotFetched: when the place cannot be reached.
    """
    try:
        with _clients_hushed():
            return download()
    except Exception as error:  # download clients raise errors of several libraries
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise NotFetched(
            f"{what} cannot be fetched from {where} ({type(error).__name__}: {first}); {by_hand}"
        ) from None


@contextlib.contextmanager
def _clients_hushed() -> Iterator[None]:
    """What the hub's client and its helpers say of every try is left out; the last error is in the message."""
    loggers = [logging.getLogger(name) for name in ("huggingface_hub", "datasets", "httpx")]
    before = [one.level for one in loggers]
    for one in loggers:
        one.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for one, level in zip(loggers, before, strict=True):
            one.setLevel(level)


def _get_imdb() -> Path:
    import datasets

    target = cache_folder() / "imdb"
    by_hand = f"unpack aclImdb_v1.tar.gz so that {cache_folder() / 'aclImdb'} (or METAIMPUTE_DATA/aclImdb) exists"
    parts = _download(
        "IMDb reviews", lambda: datasets.load_dataset("stanfordnlp/imdb", revision=IMDB_REVISION), by_hand
    )
    parts.save_to_disk(str(target))
    return target


def _get_bert() -> Any:
    from huggingface_hub import snapshot_download

    wanted = ["config.json", "model.safetensors", "vocab.txt", "tokenizer*.json"]
    by_hand = f"put config.json, model.safetensors and vocab.txt in {cache_folder() / 'bert-base-uncased'}"
    return _download(
        "BERT-base weights",
        lambda: snapshot_download(BERT, revision=BERT_REVISION, allow_patterns=wanted),
        by_hand,
    )


def _get_images(name: str, layout: str, found: Callable[[], Path | None]) -> Callable[[], Any]:
    """A data set of torchvision's, downloaded and checked by torchvision.

    Args:
        name: of the class in ``torchvision.datasets``. layout: where its files are to lie, for those who put them there.
    """

    def get() -> Path | None:
        from torchvision import datasets

        target = cache_folder()
        _download(
            name,
            lambda: getattr(datasets, name)(str(target), download=True),
            f"put {target / layout} (or METAIMPUTE_DATA/{layout}) there by hand",
            "its home page",
        )
        return found()

    return get


def _by_hand(find: Callable[[], Any], task: Callable[[], Task]) -> Source:
    """Data that only a person can get."""

    def get() -> None:
        raise MissingData(task().missing())

    return Source(find, get, by_hand=True)


SOURCES: dict[str, Source] = {
    "snippets": Source(find_snippets, fetch_snippets),
    "imdb": Source(lambda: (find_imdb() or (None, None))[1], _get_imdb),
    "cifar10": Source(Cifar10.found, _get_images("CIFAR10", Cifar10.folder, Cifar10.found)),
    "cifar100": Source(Cifar100.found, _get_images("CIFAR100", Cifar100.folder, Cifar100.found)),
    "fashion_mnist": Source(
        find_fashion_mnist, _get_images("FashionMNIST", "FashionMNIST/raw/*-ubyte.gz", find_fashion_mnist)
    ),
    "mtfl": _by_hand(find_mtfl, MTFL),
    "aflw": _by_hand(find_aflw, AFLW),
    "imagenet72": _by_hand(ImageNet72().found, ImageNet72),
    "tiny_imagenet": _by_hand(TinyImageNet().found, TinyImageNet),
    "bert-base-uncased": Source(lambda: BertBase().weights_folder(), _get_bert),
}

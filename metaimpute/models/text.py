"""Text encoders with a classification layer, through the transformers library; which there are is in :mod:`.bert`.

The last tokens of a long text are kept, as in the released UDA.
"""

from __future__ import annotations

import copy
import itertools
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..engine.pytree import Tree
from ..progress import phase
from ..ranges import BelowOne, Count, Natural
from ..tasks.base import MissingData, TaskError
from .base import Model
from .classifier import FeatureClassifier
from .kept_features import KeptFeatures, digest, fingerprint

PADDED_TO = 8  # tokens: a text's vector depends on the text alone, and few are padded by much
ENCODED_TOGETHER = 64
KEPT_TOGETHER = 1024  # an encoding that is interrupted loses no more


def batched(items: list[Any], size: int) -> Iterable[list[Any]]:
    return (items[start : start + size] for start in range(0, len(items), size))


def token_mean(hidden: Tensor, attention_mask: Tensor) -> Tensor:
    """Mean over the tokens of each text, ``[n, width]`` from ``[n, tokens, width]``."""
    mask = attention_mask[..., None].to(hidden.dtype)
    return (hidden * mask).sum(1) / mask.sum(1).clamp_min(1.0)


class TextClassifier(FeatureClassifier):
    """An encoder, pooled over tokens, under a :class:`FeatureClassifier`.

    Inputs are a dict of ``attention_mask`` ``[n, tokens]`` and either ``input_ids`` ``[n, tokens]`` or, behind a frozen
    prefix, ``hidden`` ``[n, tokens, width]``; behind a fully frozen encoder they are ``pooled`` ``[n, width]`` alone.
    """

    correction = 1

    def __init__(self, encoder: nn.Module, width: int, outputs: int, pooling: str, dropout: float) -> None:
        super().__init__(width, outputs, dropout, encoder)
        self.pooling = pooling

    def features(self, inputs: dict[str, Tensor]) -> Tensor:
        assert self.encoder is not None
        found = self.encoder(
            input_ids=inputs.get("input_ids"),
            inputs_embeds=inputs.get("hidden"),
            attention_mask=inputs["attention_mask"],
        )
        if self.pooling == "cls":
            pooled: Tensor = found.pooler_output
            return pooled
        return token_mean(found.last_hidden_state, inputs["attention_mask"])


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
    _device: str = field(default="cpu", init=False, repr=False)
    _encode: Callable[[list[str], Callable[[int], None]], dict[str, Tensor]] | None = field(
        default=None, init=False, repr=False
    )
    _pools: bool = field(default=False, init=False, repr=False)
    _kept: KeptFeatures | None = field(default=None, init=False, repr=False)
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
        if self.standardize and isinstance(module, TextClassifier):
            module.standardize(inputs())

    def reason_against_workers(self, device: torch.device) -> str:
        if not self.frozen:
            return ""
        return f"the frozen layers of model '{self.name}' prepare inputs in the run's own process; leave it out"

    def preprocess(self, device: torch.device) -> Callable[[list[str]], dict[str, Tensor]]:
        from transformers import AutoTokenizer

        os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
        if self.missing():
            raise MissingData(self.missing())
        tokenizer = AutoTokenizer.from_pretrained(self.vocabulary_folder(), local_files_only=True)
        tokenizer.truncation_side = "left"
        length, characters = self.length, 12 * self.length
        self._device = device.type

        def tokenize(texts: list[str], **padding: Any) -> dict[str, Any]:
            # far more characters than ``length`` tokens can cover, so that long texts are not tokenized in full
            found = tokenizer([text[-characters:] for text in texts], truncation=True, max_length=length, **padding)
            return {"input_ids": found["input_ids"], "attention_mask": found["attention_mask"]}

        def padded(texts: list[str]) -> dict[str, Tensor]:
            return tokenize(texts, padding=True, return_tensors="pt")

        if self._prefix is None:
            return padded
        prefix = self._prefix.to(device)

        def hidden(texts: list[str]) -> dict[str, Tensor]:
            inputs = {name: value.to(device) for name, value in padded(texts).items()}
            with torch.no_grad():
                return {"hidden": prefix(**inputs).last_hidden_state, "attention_mask": inputs["attention_mask"]}

        if not self._pools:
            return hidden

        def encode(texts: list[str], told: Callable[[int], None]) -> dict[str, Tensor]:
            """Vectors by text. Each is padded to the next multiple of 8 tokens, alone: never to its neighbours' length.

            ``told``: of how many more there are."""
            found: dict[str, Tensor] = {}
            tokens = tokenize(texts)["input_ids"]
            lengths = [-(-len(ids) // PADDED_TO) * PADDED_TO for ids in tokens]
            order = sorted(range(len(texts)), key=lambda i: lengths[i])
            for size, group in itertools.groupby(order, key=lambda i: lengths[i]):
                for together in batched(list(group), ENCODED_TOGETHER):
                    ids = [tokens[i] for i in together]
                    inputs = tokenizer.pad(
                        {"input_ids": ids}, padding="max_length", max_length=size, return_tensors="pt"
                    )
                    mask = inputs["attention_mask"].to(device)
                    with torch.no_grad():
                        states = prefix(input_ids=inputs["input_ids"].to(device), attention_mask=mask).last_hidden_state
                    found.update(zip((texts[i] for i in together), token_mean(states, mask).cpu(), strict=True))
                    told(len(together))
            return found

        def recall(texts: list[str]) -> dict[str, Tensor]:
            unknown = [text for text in dict.fromkeys(texts) if text not in self._known]
            found = {**self._known, **self._vectors(unknown)} if unknown else self._known
            return {"pooled": torch.stack([found[text] for text in texts]).to(device)}

        self._encode = encode
        self._kept = None if self.weights == "random" else KeptFeatures(self.name, self._features_depend_on())
        return recall

    def remember(self, inputs: Iterable[str]) -> int:
        """Runs a fully frozen encoder once over the texts that no run has encoded before, and keeps one vector of each."""
        if not self._pools or self._encode is None:
            return 0
        self._known = self._vectors(list(dict.fromkeys(inputs)))
        return len(self._known)

    def _vectors(self, texts: list[str]) -> dict[str, Tensor]:
        """Vectors of different texts: kept ones, and those of texts that are encoded and kept now."""
        assert self._encode is not None
        keys = {text: digest(text.encode("utf-8", "surrogatepass")) for text in texts}
        stored = {} if self._kept is None else self._kept.get(list(keys.values()))
        found = {text: stored[key] for text, key in keys.items() if key in stored}
        absent = [text for text in texts if text not in found]
        if not absent:
            return found
        with phase("encoding texts", len(absent)) as reached:
            for together in batched(absent, KEPT_TOGETHER):
                new = self._encode(together, reached.advance)
                found.update(new)
                if self._kept is not None:
                    self._kept.put({keys[text]: vector for text, vector in new.items()})
        return found

    def _features_depend_on(self) -> dict[str, Any]:
        import transformers

        folders = {folder for folder in (self.weights_folder(), self.vocabulary_folder()) if folder is not None}
        files = [file for folder in sorted(folders) for file in sorted(folder.iterdir()) if file.is_file()]
        return {
            "version": 1,
            "files": [[file.name, fingerprint(file)] for file in files],
            "length": self.length,
            "layers": self.layers,
            "pooling": self.pooling,
            "device": self._device,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        }

"""Texts as the means over tokens of several layers of a frozen encoder, computed in one pass and kept on disk.

Which layer tells classes apart differs from task to task: of topics it is the last, of sentiment often one in the middle. Of a
long text the first and the last tokens are taken, as Sun et al. (2019) found best.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..engine.ambient import as_usual
from ..tasks.base import Pool
from .kept_features import KeptFeatures, digest, fingerprint
from .text import ENCODED_TOGETHER, KEPT_TOGETHER, PADDED_TO, TextModel, batched, token_mean

LENGTH = 256  # tokens of a text: half of them its first, half its last
CHARACTERS = 6 * LENGTH  # of each end, more than half of the tokens cover


class TextLayers:
    """The layers of a text model's encoder.

    Attributes:
        levels: numbers of the layers that are kept: the one two thirds up, and the last.
    """

    def __init__(self, model: TextModel, device: torch.device) -> None:
        from transformers import AutoConfig

        self.folder, self.vocabulary, self.device = model.weights_folder(), model.vocabulary_folder(), device
        depth = int(AutoConfig.from_pretrained(str(self.folder)).num_hidden_layers)
        self.levels = tuple(sorted({max(1, round(2 * depth / 3)), depth}))
        self._name, self._made = model.name, dict[bytes, Tensor]()
        self._encoder: Any = None
        self._kept: KeptFeatures | None = None

    def at(self, level: int) -> TextLayer:
        return TextLayer(self, level)

    @as_usual()
    def __call__(self, texts: Sequence[str]) -> Tensor:
        """``[n, levels, width]``."""
        keys = [digest(text.encode("utf-8", "surrogatepass")) for text in texts]
        absent = {key: text for key, text in zip(keys, texts, strict=True) if key not in self._made}
        if absent:
            if self._kept is None:
                self._kept = KeptFeatures(f"{self._name}-layers", self._depends_on())
            self._made.update(self._kept.get(list(absent)))
            left = [(key, text) for key, text in absent.items() if key not in self._made]
            for part in batched(left, KEPT_TOGETHER):
                new = dict(zip((key for key, _ in part), self._encoded([text for _, text in part]), strict=True))
                self._made.update(new)
                self._kept.put(new)
        return torch.stack([self._made[key] for key in keys]).view(len(keys), len(self.levels), -1)

    def _encoded(self, texts: Sequence[str]) -> list[Tensor]:
        """A vector for each: its levels one after another. Each is padded to the next multiple of 8 tokens, by itself."""
        encoder, tokenizer = self._loaded()
        tokens = [ends(text, tokenizer) for text in texts]
        found: list[Tensor] = [torch.empty(0)] * len(texts)
        for places, size in by_size([len(ids) for ids in tokens]):
            inputs = tokenizer.pad(
                {"input_ids": [tokens[place] for place in places]},
                padding="max_length",
                max_length=size,
                return_tensors="pt",
            )
            mask = inputs["attention_mask"].to(self.device)
            with torch.inference_mode():
                states = encoder(
                    input_ids=inputs["input_ids"].to(self.device), attention_mask=mask, output_hidden_states=True
                ).hidden_states
                means = torch.cat([token_mean(states[level], mask) for level in self.levels], 1).cpu()
            for place, vector in zip(places, means, strict=True):
                found[place] = vector.clone()
        return found

    def _loaded(self) -> tuple[Any, Any]:
        if self._encoder is None:
            from transformers import AutoModel, AutoTokenizer
            from transformers.utils import logging

            logging.set_verbosity_error()
            logging.disable_progress_bar()
            tokenizer = AutoTokenizer.from_pretrained(self.vocabulary, local_files_only=True)
            encoder = AutoModel.from_pretrained(
                str(self.folder), local_files_only=True, dtype=torch.float32, add_pooling_layer=False
            )
            self._encoder = encoder.eval().to(self.device), tokenizer
        found: tuple[Any, Any] = self._encoder
        return found

    def _depends_on(self) -> dict[str, Any]:
        import transformers

        folders = {folder for folder in (self.folder, self.vocabulary) if folder is not None}
        files = [file for folder in sorted(folders) for file in sorted(folder.iterdir()) if file.is_file()]
        return {
            "version": 1, "files": [[file.name, fingerprint(file)] for file in files], "levels": self.levels, "length": LENGTH,
            "device": self.device.type, "torch": torch.__version__, "transformers": transformers.__version__,
        }  # fmt: skip


class TextLayer:
    """One layer, as a form of rows."""

    sparse, learnt = False, None
    systems: tuple[str, ...] | None = None

    def __init__(self, layers: TextLayers, level: int) -> None:
        self.layers, self.level, self.name = layers, layers.levels.index(level), f"layer {level}"

    def fit(self, pools: Sequence[Pool]) -> None:
        """The encoder is frozen."""

    def restore(self, learnt: Any) -> None:
        """The encoder is where it was."""

    def __call__(self, examples: Pool) -> np.ndarray:
        texts = list(examples.take(torch.arange(len(examples))))
        found: np.ndarray = self.layers(texts)[:, self.level].double().numpy()
        return found


def ends(text: str, tokenizer: Any) -> list[int]:
    """A text's tokens, special ones around them; of more than ``LENGTH`` the first and the last half."""
    room = LENGTH - 2
    if len(text) <= 2 * CHARACTERS:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        parts = (ids[: room // 2], ids[room // 2 :][-(room - room // 2) :])
    else:
        first, last = (
            tokenizer(part, add_special_tokens=False)["input_ids"] for part in (text[:CHARACTERS], text[-CHARACTERS:])
        )
        parts = (first[: room // 2], last[-(room - room // 2) :])
    return [tokenizer.cls_token_id, *parts[0], *parts[1], tokenizer.sep_token_id]


def by_size(lengths: Sequence[int]) -> Iterator[tuple[list[int], int]]:
    """Places of texts that are padded to one size, no more than are encoded together, and that size."""
    sizes = [-(-length // PADDED_TO) * PADDED_TO for length in lengths]
    order = sorted(range(len(lengths)), key=lambda place: sizes[place])
    for size, group in itertools.groupby(order, key=lambda place: sizes[place]):
        for places in batched(list(group), ENCODED_TOGETHER):
            yield places, size

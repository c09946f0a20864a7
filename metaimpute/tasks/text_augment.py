"""Strong views of text: TF-IDF word replacement and back-translation files (Xie et al., NeurIPS 2020, section 2 and B)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

WORD = re.compile(r"\w+(?:'\w+)?|[^\w\s]+")


@dataclass(frozen=True)
class TfIdfReplacement:
    """Replaces uninformative words of a text by other uninformative words of the corpus.

    A word's chance of being replaced is ``min(1, p (C - tfidf) / Z)`` with C the text's largest TF-IDF score and Z the mean
    of ``C - tfidf`` over the text; its replacement is drawn in proportion to ``max_w S(w) - S(w)`` with
    ``S(w) = frequency(w) * idf(w)``.

    Attributes:
        idf: inverse document frequency per word. words, cumulative: replacement vocabulary and its distribution.
        probability: p, the mean share of words replaced.
    """

    idf: dict[str, float]
    words: list[str]
    cumulative: np.ndarray
    probability: float

    @classmethod
    def fit(cls, corpus: Sequence[str], probability: float) -> TfIdfReplacement:
        """Scores from a corpus of texts."""
        from sklearn.feature_extraction.text import CountVectorizer

        vectorizer = CountVectorizer(lowercase=True, token_pattern=WORD.pattern, min_df=2 if len(corpus) > 100 else 1)
        counts = vectorizer.fit_transform(corpus)
        words = vectorizer.get_feature_names_out()
        documents = np.asarray((counts > 0).sum(0)).ravel()
        idf = np.log(len(corpus) / documents)
        scores = np.asarray(counts.sum(0)).ravel() / counts.sum() * idf
        chance = scores.max() - scores
        chance = np.ones_like(chance) if chance.sum() <= 0 else chance
        return cls(
            dict(zip(words.tolist(), idf.tolist(), strict=True)), words.tolist(),
            np.cumsum(chance) / chance.sum(), probability,
        )  # fmt: skip

    def __call__(self, text: str, rng: np.random.Generator) -> str:
        tokens = WORD.findall(text)
        if not tokens or self.probability <= 0:
            return text
        lowered = [token.lower() for token in tokens]
        unknown = max(self.idf.values(), default=0.0)
        frequency: dict[str, int] = {}
        for token in lowered:
            frequency[token] = frequency.get(token, 0) + 1
        scores = np.array([frequency[t] / len(tokens) * self.idf.get(t, unknown) for t in lowered])
        gap = scores.max() - scores
        mean = gap.mean()
        chance = np.full(len(tokens), self.probability) if mean <= 0 else np.minimum(1.0, self.probability * gap / mean)
        replaced = rng.random(len(tokens)) < chance
        drawn = np.searchsorted(self.cumulative, rng.random(int(replaced.sum())))
        replacements = iter(self.words[min(int(i), len(self.words) - 1)] for i in drawn)
        return " ".join(next(replacements) if r else token for token, r in zip(tokens, replaced, strict=True))


def augment_texts(texts: Sequence[str], augment: TfIdfReplacement, generator: torch.Generator) -> list[str]:
    """An augmented copy of each text, drawn from ``generator``."""
    seed = int(torch.randint(2**62, (), generator=generator, dtype=torch.int64))
    rng = np.random.default_rng(seed)
    return [augment(text, rng) for text in texts]


def read_back_translations(path: Path, originals: Sequence[str]) -> list[str]:
    """One back-translation per line, in the order of the unlabelled pool; the original where a line is unusable.

    A line is unusable when it has under 10 characters or differs from the original by over half in length.

    Raises:
        ValueError: when the file does not have one line per text.
    """
    lines = path.read_text(encoding="utf-8").splitlines()
    if len(lines) != len(originals):
        raise ValueError(f"{path} has {len(lines)} lines for {len(originals)} unlabelled texts; it needs one per text")
    return [line if usable(line, text) else text for line, text in zip(lines, originals, strict=True)]


def usable(line: str, original: str) -> bool:
    return len(line) >= 10 and abs(len(line) - len(original)) <= 0.5 * len(original)

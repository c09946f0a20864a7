"""Strong views of text: TF-IDF word replacement, back-translation files (Xie et al., NeurIPS 2020), and passages."""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

SHORTEST = 8
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
            dict(zip(words.tolist(), idf.tolist(), strict=True)),
            words.tolist(),
            np.cumsum(chance) / chance.sum(),
            probability,
        )

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


def passage(text: str, share: float, rng: np.random.Generator) -> str:
    """A run of ``share`` of the text's words from a random place; texts of under eight words stay whole."""
    words = text.split()
    if len(words) < SHORTEST:
        return text
    kept = max(1, round(share * len(words)))
    start = int(rng.integers(len(words) - kept + 1))
    return " ".join(words[start : start + kept])


@dataclass(frozen=True)
class Versions:
    """Augmented versions of a text, numbered; version v of a text is always the same.

    Attributes:
        replace: word replacement. crop: share of the words that a passage keeps, 1 for no passages. With passages, even
            versions are passages and odd ones replacements.
        count: versions there are of each text, None for any number.
    """

    replace: TfIdfReplacement
    crop: float = 1.0
    count: int | None = None

    def version(self, text: str, number: int) -> str:
        rng = np.random.default_rng([zlib.crc32(text.encode()), number])
        if self.crop < 1 and number % 2 == 0:
            return passage(text, self.crop, rng)
        return self.replace(text, rng)

    def all(self, text: str) -> list[str]:
        """Every version of a text, when their number is limited."""
        return [self.version(text, number) for number in range(self.count or 0)]

    def draw(self, texts: Sequence[str], generator: torch.Generator) -> list[str]:
        """One version of each text, drawn from ``generator``."""
        numbers = torch.randint(self.count or 2**31, (len(texts),), generator=generator, device="cpu")
        return [self.version(text, number) for text, number in zip(texts, numbers.tolist(), strict=True)]


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

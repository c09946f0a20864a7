"""Columns of many different words as inputs: by how the words are spelled, so that alike ones lie near each other.

Names of cities, models of a car, titles and remarks have too many words for an input each, and most words stand in few rows.
Their n-grams of letters, weighted by how rare they are and reduced to a few directions (latent semantic analysis; Deerwester et
al., 1990; for columns of a table: Cerda and Varoquaux, 2020), say more of a new word than that it is a rare one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

SPELLING = "spelling"
MOST_CATEGORIES = 30  # that have an input each; rarer ones share one
HELD = 0.9  # of the rows, whose words must be among those, for a column to be categories
NGRAMS, BUCKETS, DIRECTIONS = (3, 4), 2**13, 30
FITTED = 20_000  # rows at most, drawn, that the directions are found on
LEAST_VARIANCE = 1e-3  # of rows of length 1: words that are spelled alike tell nothing
SPREAD = 0.5  # of a column's inputs together, where that of a number is 1


def many_words(words: Sequence[str]) -> bool:
    """Whether one input for each of the most frequent words would leave out too many rows."""
    counts = Counter(words)
    if len(counts) <= MOST_CATEGORIES:
        return False
    return sum(count for _, count in counts.most_common(MOST_CATEGORIES - 1)) < HELD * len(words)


def spelling(words: Sequence[str]) -> tuple[Any, float]:
    """A fitted pipeline of scikit-learn that makes inputs ``[n, 30]`` of words, and what they are to be multiplied by so that
    their standard deviation, taken together, is ``SPREAD``. The inputs of a blank word are 0.

    N-grams are counted by their hash, so that no word of the table is kept.
    """
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer
    from sklearn.pipeline import make_pipeline

    fitted = np.asarray(words, dtype=object)
    if len(fitted) > FITTED:
        fitted = fitted[np.random.default_rng(0).choice(len(fitted), FITTED, replace=False)]
    hashed = HashingVectorizer(
        analyzer="char_wb",
        ngram_range=NGRAMS,
        n_features=BUCKETS,
        strip_accents="unicode",
        alternate_sign=False,
        norm=None,
    )
    found = make_pipeline(hashed, TfidfTransformer(), TruncatedSVD(DIRECTIONS, random_state=0))
    variance = float(found.fit_transform(fitted).var(0).sum())
    return found, SPREAD / max(variance, LEAST_VARIANCE) ** 0.5


def is_spelling(part: Any) -> bool:
    """Whether a part of fitted preprocessing is such a pipeline."""
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer
    from sklearn.pipeline import Pipeline

    kinds = [HashingVectorizer, TfidfTransformer, TruncatedSVD]
    return isinstance(part, Pipeline) and [type(step) for _, step in part.steps] == kinds

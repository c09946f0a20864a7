"""Given labels that look wrong: those that a model which was not trained on the row finds improbable."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..inference import Given

FEWEST = 2  # rows of a class that cleanlab estimates anything from
NEEDS = "needs probabilities of models that were not trained on these rows: make the run with choose"


@dataclass(frozen=True)
class Suspect:
    """A given label that looks wrong: the row's place among those given, and the probability of its label and of another."""

    place: int
    own: float
    other: str
    of_other: float


@dataclass(frozen=True)
class Suspects:
    """Suspects, the least probable label first, how they were found in one line, and how many rows were looked at."""

    found: list[Suspect]
    said: str
    seen: int


def suspects_of(given: Given, names: list[str]) -> Suspects:
    """Given labels that look wrong, by the library cleanlab where it is installed (confident learning: Northcutt, Jiang and
    Chuang, JAIR 2021), else those whose row has another class as its most probable one.
    """
    if given.probabilities is None:
        return Suspects([], "Labels that look wrong are looked for among classes; these are values.", 0)
    seen = np.flatnonzero(np.isfinite(given.probabilities).all(1))
    left = f" Of {len(given):,} labelled rows {len(given) - len(seen):,} are not looked at: this {NEEDS}."
    left = left if len(seen) < len(given) else ""
    if not len(seen):
        return Suspects([], f"Not looked for: this {NEEDS}.", 0)
    number = {name: place for place, name in enumerate(names)}
    labels = np.array([number[given.labels[place]] for place in seen])
    shares = given.probabilities[seen]
    shares = shares / shares.sum(1, keepdims=True)
    chosen, how = _by_cleanlab(labels, shares)
    if chosen is None:
        own = shares[np.arange(len(labels)), labels]
        wrong = np.flatnonzero(shares.argmax(1) != labels)
        chosen = wrong[np.argsort(own[wrong], kind="stable")]
    found = []
    for at in chosen.tolist():
        others = np.where(np.arange(len(names)) == labels[at], -1.0, shares[at])
        best = int(others.argmax())
        found.append(Suspect(int(seen[at]), float(shares[at, labels[at]]), names[best], float(shares[at, best])))
    return Suspects(found, how + left, len(seen))


def _by_cleanlab(labels: np.ndarray, shares: np.ndarray) -> tuple[np.ndarray | None, str]:
    """Positions by cleanlab, or None and why not."""
    plain = "they are those whose row has another class as its most probable one"
    try:
        from cleanlab.filter import find_label_issues
    except ImportError:
        return None, f"Found without the package cleanlab (pip install 'metaimpute[review]'): {plain}."
    counts = np.bincount(labels, minlength=shares.shape[1])
    if counts.min() < FEWEST:
        return None, f"A class has fewer than {FEWEST} such rows, too few for cleanlab: {plain}."
    try:
        found = find_label_issues(labels, shares, return_indices_ranked_by="self_confidence", n_jobs=1)
    except (ValueError, ZeroDivisionError) as error:
        return None, f"cleanlab found no answer ({str(error).splitlines()[0]}): {plain}."
    return np.asarray(found, dtype=int), "Found by cleanlab, by what models say of rows that they were not trained on."

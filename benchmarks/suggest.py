"""What labelling the rows that ``metaimpute suggest`` names gains over labelling others.

    python benchmarks/suggest.py [--seeds 20] [--out benchmarks/results/suggest.json]

Some rows have a label, drawn at random with one of each class at least. In every round a logistic regression is trained on
them, and as many rows again are labelled: those of ``metaimpute.review.suggest.wanted``, those with the smallest margin alone,
or rows drawn at random. Measured is the share of wrong labels at the end, in percent, among half of the rows, which no way may
choose from; draws are the same for each way, so differences are paired.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from own_data.sets import bbc_news
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler, normalize

from metaimpute.review.suggest import wanted

HERE = Path(__file__).parent
WAYS = ("suggest", "margin", "random")


@dataclass(frozen=True)
class Labelling:
    """A data set, and how it is labelled: ``start`` labels, then ``each`` more in every one of ``rounds``."""

    rows: np.ndarray
    labels: np.ndarray
    start: int
    each: int
    rounds: int = 2


def digits() -> Labelling:
    rows, labels = load_digits(return_X_y=True)
    return Labelling(StandardScaler().fit_transform(rows), labels, 20, 20)


def breast_cancer() -> Labelling:
    rows, labels = load_breast_cancer(return_X_y=True)
    return Labelling(StandardScaler().fit_transform(rows), labels, 10, 10)


def news() -> Labelling:
    """BBC news, as what ``suggest`` makes of texts: words weighted by how rare they are, in a hundred directions."""
    data = bbc_news()
    words = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2), max_features=20_000).fit_transform(data.rows)
    rows = normalize(TruncatedSVD(100, random_state=0).fit_transform(words))
    return Labelling(rows * np.sqrt(rows.shape[1]), np.unique(data.truth, return_inverse=True)[1], 10, 10)


TASKS: dict[str, Callable[[], Labelling]] = {"digits": digits, "breast cancer": breast_cancer, "BBC news": news}


def error(task: Labelling, seed: int, way: str) -> float:
    """Percent of wrong labels after the last round, among rows that were none to choose from."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(task.labels))
    pool, held = order[: len(order) // 2], order[len(order) // 2 :]
    first = [int(pool[task.labels[pool] == label][0]) for label in np.unique(task.labels)]
    known = [*first, *[int(row) for row in pool if int(row) not in first][: task.start - len(first)]]
    for number in range(task.rounds + 1):
        free = np.setdiff1d(pool, known)
        model = LogisticRegression(max_iter=2000).fit(task.rows[known], task.labels[known])
        if number == task.rounds:
            return float(100 * np.mean(model.predict(task.rows[held]) != task.labels[held]))
        shares = model.predict_proba(task.rows[free])
        two = np.sort(shares, 1)[:, -2:]
        unsure = 1 - (two[:, 1] - two[:, 0])
        if way == "suggest":
            chosen = wanted(task.rows[free], unsure, task.each, seed)
        elif way == "margin":
            chosen = [int(place) for place in np.argsort(-unsure, kind="stable")[: task.each]]
        else:
            chosen = rng.choice(len(free), task.each, replace=False).tolist()
        known += free[chosen].tolist()
    raise AssertionError


def measure(task: Labelling, seeds: int) -> dict[str, Any]:
    """Mean errors, and the mean paired gains of ``suggest`` with their standard errors."""
    errors = {way: np.array([error(task, seed, way) for seed in range(seeds)]) for way in WAYS}
    found: dict[str, Any] = {
        "labels": [task.start + task.each * number for number in range(task.rounds + 1)],
        "rows": len(task.labels),
        "error_percent": {way: round(float(values.mean()), 2) for way, values in errors.items()},
    }
    for other in ("random", "margin"):
        gain = errors[other] - errors["suggest"]
        found[f"gain_over_{other}"] = {
            "points": round(float(gain.mean()), 2),
            "standard_error": round(float(gain.std(ddof=1) / np.sqrt(seeds)), 2),
            "better_in": int((gain > 0).sum()),
            "equal_in": int((gain == 0).sum()),
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="Gain of metaimpute suggest over random choice.")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "suggest.json")
    asked = parser.parse_args()
    found: dict[str, Any] = {"seeds": asked.seeds, "model": "logistic regression", "tasks": {}}
    for name, make in TASKS.items():
        started = time.perf_counter()
        found["tasks"][name] = measure(make(), asked.seeds)
        print(f"{name}: {found['tasks'][name]['error_percent']}, {time.perf_counter() - started:.0f} s", flush=True)
    asked.out.write_text(json.dumps(found, indent=2) + "\n")
    print(f"wrote {asked.out}")


if __name__ == "__main__":
    main()

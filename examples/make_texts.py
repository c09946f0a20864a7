"""Texts to try metaimpute on: snippets of film reviews, few of them labelled.

python examples/make_texts.py reviews.csv

writes reviews.csv, 1,040 snippets of which 40 keep their label, and, held back beside it, reviews_truth.csv with the other
labels under the ids that ``metaimpute impute`` writes. The snippets come from the source release of vaderSentiment (MIT), which
is fetched once from the package index and verified; ``metaimpute data get snippets`` does the same.
"""

import argparse
import csv
import sys
from pathlib import Path

import numpy as np

from metaimpute.tasks.base import MissingData
from metaimpute.tasks.snippets import fetch_snippets, find_snippets, read_snippets

NAMES = ("negative", "positive")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--labels", type=int, default=40, help="labelled snippets, as many of each class")
    parser.add_argument("--unlabelled", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0, help="decides which snippets are drawn")
    given = parser.parse_args()

    try:
        texts, labels = read_snippets(find_snippets() or fetch_snippets(), neutral=1.0)
    except MissingData as error:
        sys.exit(str(error))
    truth, rng = np.array(labels), np.random.default_rng(given.seed)
    order = rng.permutation(len(texts))
    kept = np.concatenate([order[truth[order] == c][: given.labels // 2] for c in (0, 1)])
    rest = order[~np.isin(order, kept)][: given.unlabelled]
    shown = rng.permutation(np.concatenate([kept, rest]))
    labelled = set(kept.tolist())

    given.file.parent.mkdir(parents=True, exist_ok=True)
    held_back = given.file.with_name(f"{given.file.stem}_truth.csv")
    with given.file.open("w", newline="", encoding="utf-8") as table, held_back.open("w", newline="") as beside:
        rows, answers = csv.writer(table), csv.writer(beside)
        rows.writerow(["id", "text", "opinion"])
        answers.writerow(["id", "label"])
        for number, i in enumerate(shown.tolist()):
            name, label = f"R{number:04d}", NAMES[truth[i]]
            rows.writerow([name, texts[i], label if i in labelled else ""])
            if i not in labelled:
                answers.writerow([name, label])
    print(f"wrote {len(shown):,} texts, {len(kept)} with a label, to {given.file}, truth to {held_back}")


if __name__ == "__main__":
    main()

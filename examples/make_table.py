"""A table to try metaimpute on: scikit-learn's breast cancer data, 5% of its diagnoses left in.

python examples/make_table.py tumours.csv

writes tumours.csv, whose column ``diagnosis`` is blank in 95% of the rows, and, held back beside it, tumours_truth.csv with
the blanked diagnoses under the ids that ``metaimpute impute`` writes.
"""

import argparse
from pathlib import Path

import numpy as np
from sklearn.datasets import load_breast_cancer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--share", type=float, default=0.05, help="of the rows that keep their label")
    parser.add_argument("--seed", type=int, default=0, help="decides which rows these are")
    given = parser.parse_args()

    found = load_breast_cancer(as_frame=True)
    table = found.data.round(5)
    table.insert(0, "id", [f"T{number:03d}" for number in range(len(table))])
    table["diagnosis"] = found.target_names[found.target]
    order = np.random.default_rng(given.seed).permutation(len(table))
    blank = np.sort(order[round(given.share * len(table)) :])
    truth = table.loc[blank, ["id", "diagnosis"]].rename(columns={"diagnosis": "label"})
    table.loc[blank, "diagnosis"] = ""
    held_back = given.file.with_name(f"{given.file.stem}_truth.csv")
    given.file.parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(given.file, index=False)
    truth.to_csv(held_back, index=False)
    print(f"wrote {len(table):,} rows, {len(table) - len(blank)} with a label, to {given.file}, truth to {held_back}")


if __name__ == "__main__":
    main()

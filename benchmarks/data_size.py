"""How time and memory of ``metaimpute run`` grow with the rows of a table: ``python benchmarks/data_size.py``.

Tables of scikit-learn's ``make_classification``, 20 columns of numbers, two classes, 100 labels; ``init``, ``run`` and
``impute`` as they come, each size in a process of its own, on one thread. Writes ``benchmarks/results/data_size.json``: seconds
of each command, the largest peak of resident memory in MiB (Linux), and wrong labels in percent.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas
from sklearn.datasets import make_classification

RESULT = Path(__file__).parent / "results" / "data_size.json"
LABELS = 100


def write(rows: int, folder: Path) -> None:
    values, classes = make_classification(rows, 20, n_informative=8, random_state=0)
    table = pandas.DataFrame(values.round(4), columns=[f"c{n}" for n in range(values.shape[1])])
    table.insert(0, "id", np.arange(rows))
    names = np.array(["a", "b"])[classes]
    known = np.random.default_rng(0).permutation(rows)[:LABELS]
    table["label"] = ""
    table.loc[known, "label"] = names[known]
    table.to_csv(folder / "table.csv", index=False)
    pandas.DataFrame({"id": table["id"], "label": names}).drop(index=known).to_csv(folder / "truth.csv", index=False)


def measured(words: list[str], folder: Path) -> tuple[float, float, str]:
    """Seconds, peak of resident memory in MiB, and what the command printed."""
    began = time.perf_counter()
    with (folder / "said").open("w") as said:
        child = subprocess.Popen([sys.executable, "-m", "metaimpute", *words], cwd=folder, stdout=said)
        _, status, usage = os.wait4(child.pid, 0)
    if status:
        sys.exit(f"metaimpute {' '.join(words)} failed")
    return time.perf_counter() - began, usage.ru_maxrss / 1024, (folder / "said").read_text()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    given = parser.parse_args()
    found = []
    for rows in given.rows:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            write(rows, folder)
            row: dict[str, float] = {"rows": rows, "labels": LABELS, "peak_mib": 0.0}
            calls = {
                "init": ["init", "table", "table.csv", "--label", "label"],
                "run": ["run", "table.yaml", "--quiet"],
                "impute": ["impute", "runs/table-seed0", "--truth", "truth.csv", "--json"],
            }
            for command, words in calls.items():
                seconds, peak, said = measured(words, folder)
                row[f"{command}_seconds"], row["peak_mib"] = round(seconds, 1), max(row["peak_mib"], round(peak))
            row["wrong"] = json.loads(said)["against"]["error"]
        print(row, flush=True)
        found.append(row)
        RESULT.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()

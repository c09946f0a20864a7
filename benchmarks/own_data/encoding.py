"""What metaimpute's own encoders take for rows of one's own: a first call on an empty cache, less the same call again.

    python -m benchmarks.own_data.encoding            # Tiny-ImageNet's images and IMDb's texts from METAIMPUTE_DATA

Each call is a process of its own and labels everything by one linear system, or by a network for two steps, which needs two
augmented versions of each image as well; what is left is reading, encoding and keeping.
Writes ``benchmarks/results/own_data_encoding.json``, seconds per 1,000 rows by number of threads.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click

from metaimpute.environment import describe, pick_device
from metaimpute.rundir.files import write_text

from .sets import BY_NAME

ROOT = Path(__file__).parents[2]
FILE = ROOT / "benchmarks" / "results" / "own_data_encoding.json"
TASKS = {
    "images": ("tiny imagenet, 5 x 10", "logistic_regression"),
    "images and two versions of each": ("tiny imagenet, 5 x 10", "network"),
    "texts": ("imdb", "logistic_regression"),
}


def call(task: str, system: str, rows: int) -> float:
    """Seconds of labelling so many rows of a task, the first twenty of them labelled."""
    import numpy as np

    from metaimpute import MetaImputer

    data = BY_NAME[task].load()
    some = np.random.default_rng(0).permutation(len(data.truth))[:rows]
    given, truth = data.rows[some] if hasattr(data.rows, "shape") else [data.rows[i] for i in some], data.truth[some]
    labels = [str(name) if place < 20 else None for place, name in enumerate(truth)]
    started = time.perf_counter()
    MetaImputer(systems=system, steps=2, random_state=0, verbose=0).fit(given, labels).predict(given)
    return time.perf_counter() - started


@click.command(help=__doc__)
@click.option("--rows", default=400, show_default=True)
@click.option("--threads", default="1,2", show_default=True)
@click.option("--alone", hidden=True)
def run(rows: int, threads: str, alone: str | None) -> None:
    if alone:
        print(call(*TASKS[alone], rows))
        return
    found = {
        "benchmark": "own data, encoding",
        "rows": rows,
        "seconds_per_1000": {},
        "environment": describe(pick_device("cpu")),
    }
    for count in threads.split(","):
        for form in TASKS:
            with tempfile.TemporaryDirectory() as cache:
                surroundings = os.environ | {"OMP_NUM_THREADS": count, "METAIMPUTE_CACHE": cache}
                command = [sys.executable, "-m", "benchmarks.own_data.encoding", "--rows", str(rows), "--alone", form]
                said = [
                    subprocess.run(
                        command, env=surroundings, cwd=ROOT, check=True, capture_output=True, text=True
                    ).stdout
                    for _ in range(2)
                ]
                first, again = (float(one.split()[-1]) for one in said)
            found["seconds_per_1000"][f"{form}, {count} threads"] = round(1000 * (first - again) / rows, 1)
            print(f"{form}, {count} threads: {first:.1f} s, again {again:.1f} s", flush=True)
    write_text(FILE, json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    run()

"""Labels for one's own data: metaimpute as it comes against what a competent user of scikit-learn would try.

    python -m benchmarks.own_data                          # the tasks that are reported, all systems
    python -m benchmarks.own_data --split design           # those on which settings may be looked at
    python -m benchmarks.own_data imdb --only "metaimpute" # one task, systems by a part of their name
    python -m benchmarks.own_data --table                  # the tables again, from what has been measured
    python -m benchmarks.own_data --ray HEAD:6379          # every system and draw on a Ray cluster that runs already

A task is a real data set of which a few rows keep their labels, drawn anew for each draw and alike for every system. Measured
is the error of the labels that a system imputes against the hidden truth of the other rows. Each system runs in a process of
its own, and is given the labelled rows, their labels and all rows, never the truth. Seconds are those of the call alone,
without imports and without the encoding of texts and images, which is listed by itself; memory is what the call needs beyond
what was loaded before. Writes ``benchmarks/results/own_data/TASK.json``, ``own_data.md`` and ``own_data.png``. The same
command goes on after an interruption.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd
import torch

from metaimpute.cluster.calls import Cluster, ClusterError
from metaimpute.cluster.over_ray import ray_cluster
from metaimpute.environment import describe
from metaimpute.rundir.files import write_text

from .cluster import Cell, measured_on
from .draws import features_of, one_draw, short
from .features import FEATURES
from .rivals import systems
from .sets import BY_NAME, DATA_SETS, DESIGN, REPORTED, Absent, Data, DataSet
from .tables import plot, report, slug

RESULTS = Path(__file__).parents[1] / "results" / "own_data"
FIRST_DRAW = {REPORTED: 0, DESIGN: 100}
DRAWS = {REPORTED: 5, DESIGN: 2}
VERSIONS = ("pandas", "scipy", "setfit", "skrub", "tabm", "efficientnet-lite-pytorch")


def described(data_set: DataSet, data: Data, drawn: int) -> dict[str, Any]:
    """What the table of tasks says of one."""
    names, counts = (None, None) if data_set.values else np.unique(data.truth.astype(str), return_counts=True)
    found = {
        "task": data_set.name, "split": data_set.split, "form": data_set.form, "values": data_set.values,
        "arrays": data_set.arrays, "source": data_set.source, "rows": len(data.truth), "labels": drawn,
        "columns": data.rows.shape[1] if isinstance(data.rows, pd.DataFrame) else None,
        "classes": None if names is None else len(names),
        "rarest": None if counts is None else short(100 * counts.min() / counts.sum()),
    }  # fmt: skip
    return found


def measure(
    data_set: DataSet,
    draws: int,
    only: tuple[str, ...],
    without: tuple[str, ...],
    results: Path,
    cluster: Cluster | None = None,
) -> None:
    """Every system on every draw that has not been measured, here or on a cluster; writes the task's file after each."""
    try:
        data = data_set.load()
    except Absent as error:
        click.echo(f"{data_set.name}: skipped, {error}")
        return
    features, seconds, lacking = features_of(data_set, data)
    path = results / f"{slug(data_set.name)}.json"
    first = FIRST_DRAW[data_set.split]
    found: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {"systems": {}}
    environment: dict[str, Any] = {**describe(torch.device("cpu"))}
    environment["packages"] = environment["packages"] | {
        name: version for name in VERSIONS if (version := _version(name))
    }
    environment["command"] = f"python -m benchmarks.own_data {data_set.name!r}"
    found = described(data_set, data, len(data_set.draw(data.truth, first))) | {
        "seeds": list(range(first, first + draws)), "encoding_seconds": {k: short(v) for k, v in seconds.items()},
        "environment": environment, "systems": found["systems"],
    }  # fmt: skip
    skipped = set(lacking)
    known = systems(data_set.form, data_set.values, data_set.arrays)
    cells = [
        Cell(data_set.name, name, seed)
        for name in known
        if wanted(name, only, without)
        and not (any(part in name for part in FEATURES[data_set.form]) and name.split(", ")[-1] not in features)
        for seed in range(first, first + draws)
        if str(seed) not in found["systems"].get(name, {})
    ]

    def keep(cell: Cell, outcome: dict[str, Any]) -> None:
        if "unavailable" in outcome:
            skipped.add(outcome["unavailable"])
            unavailable.add(cell.system)
            return
        found["systems"].setdefault(cell.system, {})[str(cell.seed)] = outcome
        write_text(path, json.dumps(found, indent=1) + "\n")
        said = outcome.get("failed") or f"error {outcome['error']:.2f}, {outcome['seconds']:.1f} s"
        click.echo(f"{cell.name}: {said}")

    unavailable = set[str]()
    if cluster is not None:
        measured_on(cluster, cells, keep, click.echo)
    for cell in () if cluster is not None else cells:
        if cell.system not in unavailable:
            keep(cell, one_draw(data_set, data, features, known[cell.system], cell.seed))
    for line in sorted(skipped):
        click.echo(f"{data_set.name}: skipped for want of {line}")


def wanted(name: str, only: tuple[str, ...], without: tuple[str, ...]) -> bool:
    """Whether a system is asked for, by parts of its name."""
    return (not only or any(part in name for part in only)) and not any(part in name for part in without)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def write_tables(results: Path = RESULTS) -> None:
    files = [results / f"{slug(data_set.name)}.json" for data_set in DATA_SETS]
    found = [json.loads(path.read_text()) for path in files if path.is_file()]
    write_text(results.with_suffix(".md"), report(found))
    if found:
        plot(found, results.with_suffix(".png"))


@click.command()
@click.argument("names", nargs=-1)
@click.option("--split", type=click.Choice([REPORTED, DESIGN, "all"]), default=REPORTED, show_default=True)
@click.option("--draws", type=click.IntRange(1), help="Default: 5 of a reported task, 2 of a design task.")
@click.option("--only", multiple=True, help="Systems that have this in their name. Repeatable.")
@click.option("--without", multiple=True, help="Systems that do not. Repeatable.")
@click.option("--table", "only_table", is_flag=True, help="Write the tables from what there is.")
@click.option("--ray", help="Measure on the Ray cluster at this address; auto for the one that runs here.")
def main(
    names: tuple[str, ...],
    split: str,
    draws: int | None,
    only: tuple[str, ...],
    without: tuple[str, ...],
    only_table: bool,
    ray: str | None,
) -> None:
    """Measure the tasks NAMES (default: all of the split)."""
    unknown = [name for name in names if name not in BY_NAME]
    if unknown:
        raise click.UsageError(f"no such task: {unknown[0]}; there are {', '.join(BY_NAME)}")
    asked = [BY_NAME[name] for name in names] or [one for one in DATA_SETS if split in (one.split, "all")]
    import sklearn.ensemble  # noqa: F401

    import metaimpute.cli  # noqa: F401  # loaded before the forks, so that no system's seconds hold it

    try:
        with ray_cluster(ray) if ray else contextlib.nullcontext() as cluster:
            for data_set in () if only_table else asked:
                measure(data_set, draws or DRAWS[data_set.split], only, without, RESULTS, cluster)
    except ClusterError as error:
        raise click.ClickException(str(error)) from None
    write_tables()


if __name__ == "__main__":
    main()

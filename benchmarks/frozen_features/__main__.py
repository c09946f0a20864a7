"""Does a bilevel objective help a head on frozen features, with few labels, reliably over tasks?

    python -m benchmarks.frozen_features                  # the reported tasks, ten draws each
    python -m benchmarks.frozen_features --split design   # those on which settings were chosen, five draws
    python -m benchmarks.frozen_features imdb             # one task
    python -m benchmarks.frozen_features --table          # the tables again, from what has been measured

Tasks, rows and draws of labels are those of ``benchmarks/own_data``, the ones with classes; features are the same, frozen. Every
arm (``arms.py``) sees the same labelled rows, the same folds of them and the same 400 other rows, on whose labels
its error is measured. What is learned is learned on the cross-fitted loss of the labelled rows alone. Seconds are those of a
draw; all draws of a task are computed at once, on one thread. Writes ``benchmarks/results/frozen_features/TASK.json`` and
``benchmarks/results/frozen_features.md``; the same command goes on after an interruption.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import click
import torch

from metaimpute.environment import describe
from metaimpute.rundir.files import write_text

from ..own_data.sets import BY_NAME, DATA_SETS, DESIGN, REPORTED, Absent, DataSet
from ..own_data.tables import slug
from .arms import ARMS, Arm
from .bench import Bench, Settings
from .data import BLOCKS, FOLDS, draws_of
from .tables import report

RESULTS = Path(__file__).parents[1] / "results" / "frozen_features"
FIRST_DRAW = {REPORTED: 0, DESIGN: 100}
DRAWS = {REPORTED: 10, DESIGN: 5}


def measured(arm: Arm, bench: Bench) -> dict[str, Any]:
    """Of every draw the error in percent, the mean logarithmic loss of the true labels, and the cross-fitted loss; seconds."""
    start = time.perf_counter()
    answer = arm(bench)
    seconds = (time.perf_counter() - start) / bench.count
    truth = bench.draws.truth
    error = 100 * (answer.shares.argmax(-1) != truth).double().mean(1)
    loss = -answer.shares.gather(2, truth[..., None])[..., 0].clamp_min(1e-6).log().mean(1)
    found: dict[str, Any] = {"error": _short(error), "loss": _short(loss), "seconds": float(f"{seconds:.3g}")}
    return found if answer.held is None else {**found, "held_out": _short(answer.held)}


def _short(values: torch.Tensor) -> list[float]:
    return [float(f"{value:.5g}") for value in values.tolist()]


def measure(data_set: DataSet, draws: int, results: Path = RESULTS) -> None:
    """Every arm that has not been measured on the task; writes the task's file after each."""
    first = FIRST_DRAW[data_set.split]
    seeds = list(range(first, first + draws))
    path = results / f"{slug(data_set.name)}.json"
    known: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    asked = {"seeds": seeds, "settings": vars(Settings()), "features": list(BLOCKS[data_set.form])}
    arms: dict[str, Any] = known["arms"] if asked.items() <= known.items() else {}
    if not arms.keys() ^ ARMS.keys():
        return
    try:
        stack = draws_of(data_set, seeds)
    except Absent as error:
        click.echo(f"{data_set.name}: skipped, {error}")
        return
    bench = Bench(stack)
    start = time.perf_counter()
    bench.prepare()
    seconds = (time.perf_counter() - start) / draws
    found = {
        "task": data_set.name, "split": data_set.split, "form": data_set.form, **asked,
        "labels": int(stack.given.sum(1).max()), "classes": stack.targets.shape[2], "unlabelled": stack.truth.shape[1],
        "folds": FOLDS, "log_penalties": bench.chosen[:, 0].tolist(),
        "prepared_seconds": float(f"{seconds:.3g}"), "environment": describe(torch.device("cpu")), "arms": arms,
    }  # fmt: skip
    for name, arm in ARMS.items():
        if name in arms:
            continue
        arms[name] = measured(arm, bench)
        write_text(path, json.dumps(found, indent=1) + "\n")
        errors = arms[name]["error"]
        click.echo(f"{data_set.name}, {name}: {sum(errors) / len(errors):.2f}, {arms[name]['seconds']:.2f} s a draw")


def write_tables(results: Path = RESULTS) -> None:
    files = [results / f"{slug(data_set.name)}.json" for data_set in DATA_SETS]
    write_text(results.with_suffix(".md"), report([json.loads(path.read_text()) for path in files if path.is_file()]))


@click.command()
@click.argument("names", nargs=-1)
@click.option("--split", type=click.Choice([REPORTED, DESIGN, "all"]), default=REPORTED, show_default=True)
@click.option("--draws", type=click.IntRange(2), help="Default: 10 of a reported task, 5 of a design task.")
@click.option("--table", "only_table", is_flag=True, help="Write the tables from what there is.")
def main(names: tuple[str, ...], split: str, draws: int | None, only_table: bool) -> None:
    """Measure the tasks NAMES (default: all of the split that have classes)."""
    tasks = {name: one for name, one in BY_NAME.items() if not one.values}
    unknown = [name for name in names if name not in tasks]
    if unknown:
        raise click.UsageError(f"no such task: {unknown[0]}; there are {', '.join(tasks)}")
    torch.set_num_threads(1)
    for data_set in [] if only_table else [one for one in tasks.values() if one.name in names or not names]:
        if names or split in (data_set.split, "all"):
            measure(data_set, draws or DRAWS[data_set.split])
    write_tables()


if __name__ == "__main__":
    main()

"""The same training step in other precisions and memory orders, compiled, and with a fused optimiser, against the plain one."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable
from typing import Any

import torch
from rich.table import Table

from ..engine.compiled import CannotCompile
from ..progress import counted
from ..training.compiled import require_compiler
from .measure import machine, paired_times, peak_bytes, ratio
from .step import Bench, Config, Speed

WAYS = {
    "float32": Speed(),
    "bf16": Speed("bf16"),
    "fp16": Speed("fp16"),
    "channels_last": Speed(channels_last=True),
    "fused": Speed(fused=True),
    "compiled": Speed(compile=True),
}


def steps_of(method: str) -> list[Config]:
    return [Config(method, "none"), Config(method, "l2i", "mixed"), Config(method, "l2i", "exact")]


def sweep(
    pairs: Iterable[tuple[str, int]], *, batch: int = 16, repeats: int = 5, device: str = "cpu",
    ways: Iterable[str] = tuple(WAYS), side: int = 32, say: Callable[[str], None] = print,
) -> dict[str, Any]:  # fmt: skip
    """Rows of time and live memory for ``(method, mu)`` pairs, in units of the float32 step, all ways in turn.

    On one thread of a CPU times are the process's own, so that what else the machine does counts for less.
    """
    rows, skipped, pairs = list[dict[str, Any]](), list[dict[str, Any]](), list(pairs)
    own_time = device == "cpu" and torch.get_num_threads() == 1
    clock = time.process_time if own_time else time.perf_counter
    lacking = require_compiler(torch.device(device))
    for method, mu in counted(pairs, "methods", len(pairs)):
        bench = Bench(batch, mu, side, device)
        for config in steps_of(method):
            works: dict[str, Callable[[], Any]] = {}
            for name in ways:
                try:
                    if WAYS[name].compile and lacking is not None:
                        raise CannotCompile(lacking)
                    works[name] = bench.work(config, WAYS[name])
                    works[name]()
                except CannotCompile as error:
                    works.pop(name, None)
                    skipped.append({"system": f"{config.name}, {name}", "steps": 1, "why": str(error)})
            say(f"{config.name}, mu = {mu}: timing {len(works)} ways")
            times = paired_times(works, repeats, clock)
            for name, work in works.items():
                wall = ratio(times[name], times["float32"])
                peak = None if WAYS[name].compile else peak_bytes(work)  # a program tells nothing of its tensors
                rows.append({
                    "name": config.name, "mu": mu, "way": name, "seconds": statistics.median(times[name]),
                    "ratio": wall[0], "low": wall[1], "high": wall[2], "peak": peak,
                })  # fmt: skip
    return {
        "benchmark": "speed", "model": "WRN-16-2", "batch": batch, "side": side, "repeats": repeats, "machine": machine(device),
        "clock": "process" if own_time else "wall", "rows": rows, "skipped": skipped,
    }  # fmt: skip


def table(result: dict[str, Any]) -> Table:
    """A line for each kind of step, a column for each way: time (live memory) in units of the float32 step."""
    ways = list(dict.fromkeys(row["way"] for row in result["rows"]))
    view = Table(title="time (peak memory) of a step against the same in float32", title_justify="left")
    view.add_column("step")
    for column in ("mu", "float32", *ways[1:]):
        view.add_column(column, justify="right")
    found = {(row["name"], row["mu"], row["way"]): row for row in result["rows"]}
    for name, mu in dict.fromkeys((row["name"], row["mu"]) for row in result["rows"]):
        plain = found[name, mu, "float32"]
        cells = [f"{1000 * plain['seconds']:.0f} ms ({plain['peak'] / 2**20:.0f} MiB)"]
        cells += [_cell(found.get((name, mu, way)), plain) for way in ways[1:]]
        view.add_row(name, str(mu), *cells)
    return view


def _cell(row: dict[str, Any] | None, plain: dict[str, Any]) -> str:
    if row is None:
        return "-"
    memory = "" if row["peak"] is None else f" ({row['peak'] / plain['peak']:.2f})"
    return f"{row['ratio']:.2f}{memory}"

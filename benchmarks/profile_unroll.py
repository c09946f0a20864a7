"""Where the time of an unroll goes: operators of plain steps, of exact reverse mode and of its peer, by kind.

    python benchmarks/profile_unroll.py --model wrn --steps 4

Self time of each operator (torch.profiler) on one thread, in units of all of k plain steps, so that columns compare. Systems
are taken in turn, and the quickest of several repeats of each is shown: what else the machine does is then mostly left out.
"""

from __future__ import annotations

import argparse
from collections import Counter

import torch
from rich.console import Console
from rich.table import Table
from torch.profiler import ProfilerActivity, profile

from metaimpute.bench.hypergradient import inner_rule, ours, plain_steps
from metaimpute.bench.measure import Work
from metaimpute.bench.peers import PEERS, installed
from metaimpute.bench.problems import build

KINDS = {
    "convolutions and matrix products": ("conv", "mkldnn", "mm", "linear"),
    "batch norm": ("batch_norm", "NativeBatchNorm"),
    "elementwise, sums, copies": ("aten::",),
}
REST = "bookkeeping"


def kind_of(operator: str) -> str:
    return next((kind for kind, parts in KINDS.items() if any(part in operator for part in parts)), REST)


def self_times(work: Work) -> Counter[str]:
    """Microseconds by kind of operator."""
    with profile(activities=[ProfilerActivity.CPU]) as recorded:
        work()
    found: Counter[str] = Counter()
    for event in recorded.key_averages():
        found[kind_of(event.key)] += event.self_cpu_time_total
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="wrn")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--optimizer", default="momentum")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    problem, rule = build(chosen.model, chosen.batch, torch.float32, "cpu", None), inner_rule(chosen.optimizer, 0.05)
    works: dict[str, Work] = {
        "plain": plain_steps(problem, rule, chosen.steps),
        "exact / store": ours(problem, rule, chosen.steps, "exact", "store"),
        "exact / recompute": ours(problem, rule, chosen.steps, "exact", "recompute"),
    }
    if installed("higher"):
        works["higher"] = PEERS["higher"](problem, chosen.optimizer, 0.05, chosen.steps)
    for work in works.values():
        work()
    taken: dict[str, list[Counter[str]]] = {name: [] for name in works}
    for _ in range(chosen.repeats):
        for name, work in works.items():
            taken[name].append(self_times(work))
    times = {name: min(found, key=lambda one: sum(one.values())) for name, found in taken.items()}
    unit = sum(times["plain"].values())
    table = Table(title=f"{chosen.model}, k = {chosen.steps}: self time in units of {chosen.steps} plain steps")
    for column in ("", *works):
        table.add_column(column, justify="right" if column else "left")
    for kind in (*KINDS, REST):
        table.add_row(kind, *(f"{found[kind] / unit:.2f}" for found in times.values()))
    table.add_row("all", *(f"{sum(found.values()) / unit:.2f}" for found in times.values()))
    Console().print(table)


if __name__ == "__main__":
    main()

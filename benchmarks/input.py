"""What a training step waits for its batches, by worker processes and by where views are made.

    python benchmarks/input.py --out benchmarks/results/input.json
    python benchmarks/input.py --folder tiny-imagenet-200          # the images of a folder too, decoded and from the cache

Drawn images stand in for photographs: their number and sides are what costs, not what they show. Three parts: images a second of
FixMatch's views (448 of 32 x 32 pixels a step); a run of FixMatch with L2I on WRN-28-2, of which each variant is trained in turn,
some steps at a time, so that whatever else the machine does meets all of them; a folder's images read anew and from the cache.
Memory is the largest resident size of the process and its workers, summed over a run of its own.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from drawn import DrawnImages

from metaimpute import recipes
from metaimpute.environment import describe, pick_device
from metaimpute.recipes.shipped import locate
from metaimpute.training.ahead import Ahead
from metaimpute.training.assemble import Parts, assemble, take_step

TASK = f"task={{name: {DrawnImages.name}, validation: 0}}"
PLACE = {"device": "cpu"}  # of this process's runs


def variants(workers: list[int]) -> dict[str, tuple[str, ...]]:
    """Settings of the runs that are compared, by name; on an accelerator also with views made there."""
    found: dict[str, tuple[str, ...]] = {f"workers {n}": (f"train.workers={n}",) for n in workers}
    if PLACE["device"] != "cpu":
        found |= {
            f"workers {n}, views on the device": (f"train.workers={n}", "train.views=device") for n in workers[:2]
        }
    return found


def recipe(*sets: str) -> Any:
    settings = (
        TASK, f"train.device={PLACE['device']}", "train.threads=1", "train.seed=0", "train.steps=100000", *sets,
    )  # fmt: skip
    return recipes.load(locate(Path("cifar10_fixmatch_l2i")), "paper", settings)


def built(*sets: str) -> tuple[Any, Parts]:
    chosen = recipe(*sets)
    return chosen, assemble(chosen, lambda line: None)


def views(rounds: int, steps: int, counts: list[int]) -> list[dict[str, Any]]:
    """Images a second of the weak and the strong view of 448 images, by workers and place; one after another in each round."""
    sizes = ("train.batch=8", "train.unlabelled_batch=448", "problem.name=none", "model={name: mlp, width: 4}")
    rates: dict[tuple[int, str], list[float]] = {}
    for _ in range(rounds):
        for place in ("host", "device"):
            _, parts = built(*sizes, f"train.views={place}")
            for workers in counts:
                ahead = Ahead(parts.batches, workers, False, steps + 4)
                for step in range(4):  # the workers' start, and what they prepare while nobody asks
                    ahead(step)
                settled()
                started = time.perf_counter()
                for step in range(4, steps + 4):
                    ahead(step)
                settled()
                rates.setdefault((workers, place), []).append((8 + 448) * steps / (time.perf_counter() - started))
                ahead.close()
    return [
        {"workers": workers, "views": place, "images_per_second": statistics.median(found), "range": [min(found), max(found)]}
        for (workers, place), found in rates.items()
    ]  # fmt: skip


def settled() -> None:
    """Waits for the accelerator."""
    if PLACE["device"] != "cpu":
        torch.accelerator.synchronize()


def runs(steps: int, block: int, batch: int, unlabelled: int, counts: list[int]) -> list[dict[str, Any]]:
    """The variants of one run, trained in turn a block of steps at a time; parts of a step by the run's own stopwatch.

    On an accelerator a step's time is a block's, shared out, and each variant's first block is none of them.
    """
    sizes = (f"train.batch={batch}", f"train.unlabelled_batch={unlabelled}")
    made = {name: built(*sizes, *sets) for name, sets in variants(counts).items()}
    times: dict[str, list[float]] = {name: [] for name in made}
    waits = PLACE["device"] != "cpu"
    for first in range(0, steps, block):
        for name, (chosen, parts) in made.items():
            number, begun = min(block, steps - first), time.perf_counter()
            for step in range(first, first + number):
                started = time.perf_counter()
                take_step(parts, chosen, step)
                if not waits:
                    times[name].append(time.perf_counter() - started)
            settled()
            if waits and first:
                times[name] += [(time.perf_counter() - begun) / number] * number
    found = []
    for name, (_, parts) in made.items():
        parts.ahead.close()
        seconds = parts.algorithm.stopwatch.seconds
        found.append(
            {
                "variant": name, "steps": steps, "batch": batch, "unlabelled_batch": unlabelled,
                "step_ms": 1e3 * statistics.median(times[name]), "step_ms_mean": 1e3 * statistics.mean(times[name]),
                "data_ms": 1e3 * seconds["data"] / steps, "waiting": seconds["data"] / sum(seconds.values()),
                "weights": float(sum(p.detach().double().abs().sum() for p in parts.module.parameters())),
            }
        )  # fmt: skip
    return found


def alone(name: str, steps: int, batch: int, unlabelled: int) -> None:
    """One variant in a process of its own, for :func:`memory`."""
    sets = variants([int(name.split()[1].rstrip(","))])[name]
    chosen, parts = built(f"train.batch={batch}", f"train.unlabelled_batch={unlabelled}", *sets)
    for step in range(steps):
        take_step(parts, chosen, step)
    print("done", flush=True)
    time.sleep(3600)  # until it has been looked at


def memory(steps: int, batch: int, unlabelled: int, counts: list[int]) -> dict[str, dict[str, float]]:
    """Peak MiB of each variant and its workers: resident sizes, and as shares of what processes have in common."""
    found = {}
    for name in variants(counts):
        command = [sys.executable, __file__, "--alone", name, "--memory-steps", str(steps)]
        command += ["--batch", str(batch), "--unlabelled", str(unlabelled), "--device", PLACE["device"]]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            process.stdout.readline()
            family = [str(process.pid), *children(process.pid)]
            resident = sum(field(Path("/proc") / one / "status", "VmHWM") for one in family)
            shared_out = sum(field(Path("/proc") / one / "smaps_rollup", "Pss") for one in family)
            process.kill()
        found[name] = {"peak_resident_mib": resident / 1024, "proportional_at_end_mib": shared_out / 1024}
    return found


def children(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def field(file: Path, name: str) -> int:
    """KiB of a line such as ``VmHWM:  123 kB``."""
    return next(int(line.split()[1]) for line in file.read_text().splitlines() if line.startswith(f"{name}:"))


def folder(name: str, side: int, most: int) -> dict[str, Any]:
    """Images a second of a folder: decoded, and from a cache that another run has filled."""
    task: Any = recipes.load(
        locate(Path("tiny_imagenet_supervised")),
        "sample",
        (f"task.folder={name}", f"task.size={side}", "task.cache_gb=0"),
    ).task
    found: dict[str, Any] = {"folder": Path(name).name, "side": side}
    with tempfile.TemporaryDirectory() as cache:
        os.environ["METAIMPUTE_CACHE"] = cache
        for how in ("decoded", "from_cache"):
            pool = task.load(0).unlabelled
            index = torch.arange(min(most, len(pool)))
            started = time.perf_counter()
            for part in index.split(256):
                pool.take(part)
            found[f"{how}_images_per_second"] = len(index) / (time.perf_counter() - started)
        found["images"] = len(index)
        found["cache_mib"] = sum(file.stat().st_size for file in Path(cache).rglob("*.sqlite")) / 2**20
    return found


def tables(found: dict[str, Any]) -> str:
    """Markdown for the documentation."""
    rates = {(row["workers"], row["views"]): row["images_per_second"] for row in found["views"]}
    counts = sorted({row["workers"] for row in found["views"]})
    lines = [
        "| images a second | " + " | ".join(f"workers {n}" for n in counts) + " |",
        "|---|" + "---:|" * len(counts),
    ]
    for place in ("host", "device"):
        lines.append(f"| views on the {place} | " + " | ".join(f"{rates[n, place]:,.0f}" for n in counts) + " |")
    lines += [
        "",
        "| WRN-28-2 | a step | waiting for data | peak resident | shared pages once |",
        "|---|---:|---:|---:|---:|",
    ]
    for row in found["run"]:
        peak, once = found["memory"].get(row["variant"], {"": math.nan, " ": math.nan}).values()
        waiting = f"{row['data_ms']:.1f} ms, {row['waiting']:.1%}"
        lines.append(f"| {row['variant']} | {row['step_ms']:,.0f} ms | {waiting} | {peak:,.0f} MiB | {once:,.0f} MiB |")
    if "folder" in found:
        one = found["folder"]
        decoded, kept = one["decoded_images_per_second"], one["from_cache_images_per_second"]
        lines += ["", f"{one['images']:,} images of {one['folder']}, side {one['side']}:"]
        lines += [f"{decoded:,.0f} a second decoded, {kept:,.0f} from the cache"]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--block", type=int, default=10)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--unlabelled", type=int, default=56)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--views-steps", type=int, default=20)
    parser.add_argument("--memory-steps", type=int, default=5)
    parser.add_argument("--workers", default="0,1,2", help="worker processes that are compared")
    parser.add_argument("--device", default="cpu", help="where the run trains; not cpu: memory is left out")
    parser.add_argument("--folder")
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--most", type=int, default=4000)
    parser.add_argument("--alone", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    device = pick_device(chosen.device)
    PLACE["device"], counts = str(device), [int(one) for one in chosen.workers.split(",")]
    if chosen.alone:
        alone(chosen.alone, chosen.memory_steps, chosen.batch, chosen.unlabelled)
        return
    found: dict[str, Any] = {
        "command": shlex.join(["python", "benchmarks/input.py", *sys.argv[1:]]), "seed": 0, "machine": f"{os.cpu_count()} cores",
        "environment": {**describe(device), "command": ""},
    }  # fmt: skip

    def add(name: str, part: Any) -> None:
        found[name] = part
        if chosen.out:
            chosen.out.write_text(json.dumps(found, indent=1) + "\n")

    if chosen.folder:
        add("folder", folder(chosen.folder, chosen.side, chosen.most))
    add("views", views(chosen.rounds, chosen.views_steps, counts))
    of_runs = counts if PLACE["device"] != "cpu" else counts[:2]
    add(
        "memory",
        {} if PLACE["device"] != "cpu" else memory(chosen.memory_steps, chosen.batch, chosen.unlabelled, of_runs),
    )
    add("load_average", os.getloadavg())  # of 1, 5 and 15 minutes: how many others compute
    add("run", runs(chosen.steps, chosen.block, chosen.batch, chosen.unlabelled, of_runs))
    print(tables(found))


if __name__ == "__main__":
    main()

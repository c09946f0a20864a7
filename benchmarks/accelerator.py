"""What hypergradients and training steps cost on an accelerator, beside other packages where they are installed.

    python benchmarks/accelerator.py                # every command below, some minutes
    python benchmarks/accelerator.py --only step    # those whose name has this in it

Writes ``benchmarks/results/accelerator/NAME.json`` and prints the tables. Device, torch and CPU are in each file. Accuracy is
against the exact gradient in float64 on the CPU, so a large model's reference takes longer than its timings.
"""

from __future__ import annotations

import time
from pathlib import Path

import click

from metaimpute.cli import main
from metaimpute.environment import accelerator

RESULTS = Path(__file__).parent / "results" / "accelerator"
COMMANDS: dict[str, tuple[str, ...]] = {
    "hypergradient-transformer": (
        "hypergradient", "--model", "transformer", "--steps", "1,4,16", "--repeats", "7", "--backend", "func,compiled,higher",
    ),
    "hypergradient-mlp": (
        "hypergradient", "--model", "mlp", "--optimizer", "momentum", "--steps", "1,16,64", "--batch", "32", "--repeats", "5",
        "--estimator", "exact,mixed,finite_difference,first_order,head",
        "--memory", "store,recompute,revolve(8),auto(200MiB)", "--backend", "func,compiled",
    ),
    "hypergradient-wrn": (
        "hypergradient", "--model", "wrn", "--optimizer", "momentum", "--steps", "1,8", "--repeats", "5", "--estimator",
        "exact,mixed,finite_difference,head", "--memory", "store,recompute,recompute(offload),revolve(4)",
        "--peers", "higher,torchopt",
    ),
    "step": ("step", "--batch", "64", "--repeats", "6"),
}  # fmt: skip


@click.command(help=__doc__)
@click.option("--device", default="auto", show_default=True)
@click.option("--threads", default=8, show_default=True, type=click.IntRange(1), help="Of the CPU, for the reference.")
@click.option("--only", default="", metavar="TEXT")
@click.option("--out", default=RESULTS, show_default=False, type=click.Path(path_type=Path))
def run(device: str, threads: int, only: str, out: Path) -> None:
    if device == "auto" and accelerator() is None:
        raise click.UsageError("torch finds no accelerator here; --device cpu measures on the CPU")
    for name, arguments in COMMANDS.items():
        if only not in name:
            continue
        started = time.perf_counter()
        more = ("--device", device, "--threads", str(threads), "--out", str(out / f"{name}.json"))
        main(["bench", *arguments, *more], standalone_mode=False)
        click.echo(f"{name}: {time.perf_counter() - started:.0f} s", err=True)


if __name__ == "__main__":
    run()

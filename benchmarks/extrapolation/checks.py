"""What the extrapolation's model is held against: steps on this CPU, and runs on an H200 that were made before."""

from __future__ import annotations

import itertools
import json
import time
from typing import Any

import torch

from metaimpute.environment import describe

from .assumed import CARDS, HIGH, LOW
from .counts import small_cnn, wrn
from .steps import RESULTS, added_passes, method_passes, seconds_of


def cpu_seconds(depth: int, width: int, rows: int) -> float:
    """Processor time of a forward and a backward pass on one thread, the least of several."""
    from metaimpute.models.wrn import WideResNet

    net, x = WideResNet(depth, width, 3, 10), torch.randn(rows, 3, 32, 32)
    best = float("inf")
    for number in range(4):
        start = time.process_time()
        net(x).sum().backward()
        if number:
            best = min(best, time.process_time() - start)
    return best


def held_against_the_cpu() -> dict[str, Any]:
    """Launch, FLOP/s and bytes/s fitted to WRN-10-1 at three sizes of a batch; then larger networks predicted and measured."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    small = wrn(10, 1)
    known = {rows: cpu_seconds(10, 1, rows) for rows in (1, 4, 16)}
    best: tuple[float, tuple[float, float, float]] = (float("inf"), (0.0, 0.0, 0.0))
    for launch, flops, bandwidth in itertools.product(
        (1e-5, 2e-5, 4e-5, 8e-5), [2e9 * 1.15**n for n in range(30)], [1e9 * 1.15**n for n in range(30)]
    ):
        wrong = sum(
            (small.run(rows, True).seconds(launch, flops, bandwidth) / seconds - 1) ** 2
            for rows, seconds in known.items()
        )
        best = min(best, (wrong, (launch, flops, bandwidth)))
    found = []
    for depth, width, rows in ((16, 2, 8), (28, 2, 4)):
        predicted, measured = wrn(depth, width).run(rows, True).seconds(*best[1]), cpu_seconds(depth, width, rows)
        found.append(
            {
                "network": f"WRN-{depth}-{width}",
                "rows": rows,
                "predicted": predicted,
                "measured": measured,
                "error": predicted / measured - 1,
            }
        )
    launch, flops, bandwidth = best[1]
    return {
        "fitted_to": "WRN-10-1, batches of 1, 4 and 16",
        "launch": launch,
        "flops": flops,
        "bandwidth": bandwidth,
        "fit_error": (best[0] / len(known)) ** 0.5,
        "checks": found,
        "environment": describe(torch.device("cpu")),
    }


def held_against_the_h200() -> list[dict[str, Any]]:
    """Runs of a small conv net on Fashion-MNIST on an H200: seconds of a step, and what the model says of the card's part."""
    found = []
    for method, file in (("mean_teacher", "fashion-mnist-mean-teacher"), ("fixmatch", "fashion-mnist-fixmatch")):
        kept = json.loads((RESULTS / "evidence" / f"{file}.json").read_text())
        for arm in ("none", "l2i"):
            passes = method_passes(method, 32, 96) + (added_passes("mixed", 1, 96, 32) if arm == "l2i" else [])
            step = [seconds_of(small_cnn(), passes, CARDS["H200"], end) for end in (LOW, HIGH)]
            measured = kept["arms"][arm]["seconds"] / kept["steps"]
            found.append(
                {
                    "method": method,
                    "problem": arm,
                    "steps": kept["steps"],
                    "measured": measured,
                    "card": step,
                    "rows": 128 + (32 if arm == "l2i" else 0),
                    "times": [measured / step[HIGH], measured / step[LOW]],
                }
            )
    return found

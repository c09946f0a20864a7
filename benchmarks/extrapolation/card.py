"""What was extrapolated, measured on a card: steps of the paper's tables, and inner loops on seven billion parameters.

    python -m benchmarks.extrapolation.card                       # on an accelerator, some minutes
    python -m benchmarks.extrapolation.card --device cpu --small  # that it runs

Steps are those of the recipes under their ``paper`` profile, with drawn images and texts and random weights: what a step costs
depends on none of them. Each is timed twice: with one batch again and again, which is the card's part, and as a run takes it,
with batches that workers prepare. The decoder has LLaMA's shape and drawn weights; its adapters, in float32, are the inner
parameters, the weights of the texts the coupling. Writes ``results/extrapolation_card.json``.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from metaimpute import FunctionalModel, hypergradient, recipes, sgd
from metaimpute.environment import describe, pick_device
from metaimpute.recipes.shipped import locate
from metaimpute.training.assemble import Parts, assemble, take_step

from ..drawn import drawn_reviews
from .counts import Decoder
from .lora import LENGTH, RANK, ROWS
from .steps import RESULTS

FILE = RESULTS / "extrapolation_card.json"
STEPS_WAITED, STEPS_TIMED = 5, 20
DATA = {
    "CIFAR-10": "task={name: drawn_images, validation: 0}",
    "ImageNet-72": "task={name: drawn_images, validation: 0, side: 72, outputs: 1000, labels: 1000}",
    "IMDb": "task={name: imdb, shortest: 0}",
}
# what of the inner loops is measured: estimator, memory, steps
LOOPS: tuple[tuple[str, str, int], ...] = (
    ("exact", "recompute", 1), ("exact", "store", 1), ("mixed", "store", 1), ("finite_difference", "store", 1),
    ("first_order", "store", 1), ("exact", "recompute", 8), ("exact", "store", 8), ("mixed", "store", 8),
    ("first_order", "store", 8), ("exact", "recompute", 32), ("first_order", "store", 32),
)  # fmt: skip


def settled(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def peak_gib(device: torch.device) -> dict[str, float]:
    """Of what tensors took since the last look, and of what the allocator had for them."""
    if device.type != "cuda":
        return {}
    found = {
        "allocated_gib": torch.cuda.max_memory_allocated() / 2**30,
        "reserved_gib": torch.cuda.max_memory_reserved() / 2**30,
    }
    return found


def forgotten(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def repeated(parts: Parts) -> Parts:
    """The run with its first batch in every step."""
    same = parts.ahead(0)

    def ahead(step: int) -> Any:
        return same

    return dataclasses.replace(parts, ahead=ahead)  # type: ignore[arg-type]


def timed(take: Callable[[int], Any], first: int, steps: int, device: torch.device) -> list[float]:
    """Seconds of a step: of so many blocks of steps, the device waited for after each."""
    found = []
    for block in range(4):
        settled(device)
        started = time.perf_counter()
        for step in range(first + block * steps // 4, first + (block + 1) * steps // 4):
            take(step)
        settled(device)
        found.append((time.perf_counter() - started) / (steps // 4))
    return found


def paper_steps(device: torch.device, workers: int, small: bool, only: str) -> Iterator[dict[str, Any]]:
    """Steps of the rows of Tables 2, 3 and 4 that a recipe has, CIFAR-100's, which are CIFAR-10's, left out."""
    from .__main__ import runs

    seen = set[str]()
    for run in runs():
        kind = f"{run['row']} {run['data']}"
        if run["data"] not in DATA or run["recipe"] in seen or only not in kind:
            continue
        seen.add(run["recipe"])
        text = run["data"] == "IMDb"
        sets = [DATA[run["data"]], f"train.device={device}", "train.threads=1", "train.seed=0", "train.steps=100000"]
        sets += ["model.weights=random"] if text else [] if small else [f"train.workers={workers}"]
        if small:
            sets += ["train.batch=4", "train.unlabelled_batch=4", "problem.holdout_batch=4"]
        forgotten(device)
        recipe = recipes.load(locate(Path(run["recipe"])), "paper", tuple(sets))
        parts = assemble(recipe, lambda line: None)
        waited, steps = (1, 4) if small else (STEPS_WAITED, STEPS_TIMED)
        alone = repeated(parts)
        for step in range(waited):
            take_step(alone, recipe, step)
        forgotten(device)
        card = timed(lambda step: take_step(alone, recipe, step), waited, steps, device)  # noqa: B023
        memory = peak_gib(device)
        for step in range(waited):
            take_step(parts, recipe, step)
        whole = timed(lambda step: take_step(parts, recipe, step), waited, steps, device)  # noqa: B023
        parts.ahead.close()
        yield {
            "table": run["table"], "row": run["row"], "data": run["data"], "recipe": run["recipe"],
            "workers": 0 if text or small else workers, "step_ms": 1e3 * statistics.median(card),
            "step_ms_range": [1e3 * min(card), 1e3 * max(card)], "with_data_ms": 1e3 * statistics.median(whole),
            "with_data_ms_range": [1e3 * min(whole), 1e3 * max(whole)], **memory,
        }  # fmt: skip


class Small(Decoder):
    """For a look at whether it runs."""

    WIDTH, HEADS, INNER, LAYERS, WORDS = 64, 4, 172, 2, 100


class Language(nn.Module):
    """Words ``[n, length]`` to scores of the next word ``[n, length, words]``; all but the adapters is frozen."""

    def __init__(self, layer: type[Decoder], rank: int) -> None:
        super().__init__()
        self.words = nn.Embedding(layer.WORDS, layer.WIDTH).requires_grad_(False)
        self.layers = nn.ModuleList(layer(rank) for _ in range(layer.LAYERS))
        self.norm = nn.RMSNorm(layer.WIDTH).requires_grad_(False)
        self.scores = nn.Linear(layer.WIDTH, layer.WORDS, bias=False).requires_grad_(False)

    def forward(self, words: Tensor) -> Tensor:
        x = self.words(words)
        for layer in self.layers:
            x = layer(x)
        found: Tensor = self.scores(self.norm(x))
        return found


def decoder(device: torch.device, small: bool) -> Language:
    """In bfloat16, its adapters in float32."""
    torch.set_default_dtype(torch.bfloat16)
    try:
        with device:
            net = Language(Small if small else Decoder, RANK)
    finally:
        torch.set_default_dtype(torch.float32)
    for part in net.parameters():
        if part.requires_grad:
            part.data = part.data.float()
    return net


def inner_loops(device: torch.device, small: bool, only: str) -> Iterator[dict[str, Any]]:
    """k inner steps on the adapters, by estimator: seconds, memory, and how near the hypergradient is to ``exact, recompute``."""
    torch.manual_seed(0)
    net, words = decoder(device, small), Small.WORDS if small else Decoder.WORDS
    model = FunctionalModel(net)
    length = 16 if small else LENGTH
    inner, outer = (torch.randint(words, (ROWS, length + 1), device=device) for _ in range(2))

    def losses(params: dict[str, Tensor], texts: Tensor) -> Tensor:
        low = {name: one.bfloat16() for name, one in params.items()}
        scores = model(low, texts[:, :-1]).float()
        return nn.functional.cross_entropy(scores.transpose(1, 2), texts[:, 1:], reduction="none").mean(1)

    def inner_loss(params: Any, weights: Tensor, texts: Tensor) -> Tensor:
        return (weights * losses(params, texts)).mean()

    def outer_loss(params: Any, weights: Tensor, texts: Tensor) -> Tensor:
        return losses(params, texts).mean()

    def plain() -> None:
        """A plain step's two passes."""
        params = {name: one.detach().requires_grad_() for name, one in model.params.items()}
        torch.autograd.grad(losses(params, inner).mean(), list(params.values()))

    plain()
    seconds = []
    for _ in range(3):
        settled(device)
        started = time.perf_counter()
        plain()
        settled(device)
        seconds.append(time.perf_counter() - started)
    forgotten(device)
    plain()
    total = sum(one.numel() for one in net.parameters())
    yield {
        "estimator": "a plain step", "seconds": seconds, **peak_gib(device), "parameters": total,
        "adapters": sum(one.numel() for one in model.params.values()),
    }  # fmt: skip
    exact: dict[int, Tensor] = {}
    for estimator, memory, steps in LOOPS:
        name = f"{estimator}, {memory}" if estimator == "exact" else estimator
        if only not in f"{name} {steps}":
            continue
        weights = torch.ones(ROWS, device=device)
        said: dict[str, Any] = {"estimator": name, "k": steps}
        found: Any = None
        seconds = []
        try:
            for _ in range(2 if steps == 1 else 1):
                found = None
                forgotten(device)
                settled(device)
                started = time.perf_counter()
                found = hypergradient(
                    inner_loss, outer_loss, model.params, weights, inner, sgd(0.01, momentum=0.9), estimator,
                    steps=steps, outer_batch=outer, memory=memory, wrt_start=False,
                )  # fmt: skip
                settled(device)
                seconds.append(time.perf_counter() - started)
        except torch.OutOfMemoryError as error:
            said["out_of_memory"] = str(error).partition(". ")[0]
        except Exception as error:  # one that does not go is said, and the others go on
            said["error"] = f"{type(error).__name__}: {str(error)[:300]}"
        said |= {"seconds": seconds, **peak_gib(device)}
        if found is not None:
            gradient = found.grad_c.double()
            said["gradient"] = gradient.tolist()
            if name == "exact, recompute":
                exact[steps] = gradient
            if steps in exact:
                said["cosine"] = float(torch.cosine_similarity(gradient, exact[steps], 0))
                said["relative_error"] = float((gradient - exact[steps]).norm() / exact[steps].norm())
            said["diagnostics"] = {key: str(value)[:200] for key, value in found.diagnostics.items()}
        yield said


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--workers", type=int, default=12)
    parser.add_argument("--part", choices=("steps", "loops", "both"), default="both")
    parser.add_argument("--only", default="", help="rows whose name has this in it")
    parser.add_argument("--small", action="store_true", help="small sizes, to see that it runs")
    parser.add_argument("--out", type=Path, default=FILE)
    chosen = parser.parse_args()
    device = pick_device(chosen.device)
    found: dict[str, Any] = {
        "benchmark": "extrapolation, measured", "seed": 0, "small": chosen.small, "cores": os.cpu_count(),
        "command": shlex.join(["python", "-m", "benchmarks.extrapolation.card", *sys.argv[1:]]),
        "environment": {**describe(device), "command": ""}, "steps": [], "loops": [],
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        os.environ["METAIMPUTE_DATA"] = folder
        os.environ["METAIMPUTE_CACHE"] = f"{folder}/cache"
        parts = {
            "steps": lambda: paper_steps(device, chosen.workers, chosen.small, chosen.only),
            "loops": lambda: inner_loops(device, chosen.small, chosen.only),
        }
        if chosen.part != "loops":
            drawn_reviews(Path(folder))
        for name, rows in parts.items():
            if chosen.part in (name, "both"):
                for row in rows():
                    print(row, flush=True)
                    found[name].append(row)
                    chosen.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()

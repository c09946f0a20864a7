"""What the parts of a small inner step cost, beside ways of doing them that the engine does not take.

    python benchmarks/step_parts.py

CPU time on one thread, median over rounds in which everything is timed in turn. Trees: a dict of parameters flattened and filled
again by the engine, by torch's pytree and by optree's C++. Updates: ``p - lr g`` of every parameter with one operation each or
with one multi-tensor operation, and its derivative by both. Forward mode: a level entered and left.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.utils import _pytree

from metaimpute.bench.measure import paired_times
from metaimpute.bench.problems import build
from metaimpute.engine.ambient import forward_mode
from metaimpute.engine.pytree import filled, leaves_of


def trees(params: dict[str, Tensor]) -> dict[str, Callable[[], Any]]:
    def by_torch() -> Any:
        leaves, spec = _pytree.tree_flatten(params)
        return _pytree.tree_unflatten(leaves, spec)

    found: dict[str, Callable[[], Any]] = {
        "the engine's": lambda: filled(params, leaves_of(params)),
        "torch's": by_torch,
    }
    if importlib.util.find_spec("optree"):
        import optree

        def by_optree() -> Any:
            leaves, spec = optree.tree_flatten(params)
            return optree.tree_unflatten(spec, leaves)

        found["optree's"] = by_optree
    return found


def updates(params: dict[str, Tensor]) -> dict[str, Callable[[], Any]]:
    leaves = [p.detach().requires_grad_() for p in params.values()]
    slopes = [torch.randn_like(p).requires_grad_() for p in leaves]

    def twice(moved: list[Tensor] | tuple[Tensor, ...]) -> Any:
        return torch.autograd.grad(list(moved), [*leaves, *slopes], [p.detach() for p in leaves])

    return {
        "one each": lambda: twice([torch.add(p, g, alpha=-0.1) for p, g in zip(leaves, slopes, strict=True)]),
        "multi-tensor": lambda: twice(torch._foreach_add(leaves, slopes, alpha=-0.1)),
    }


def forward_levels() -> dict[str, Callable[[], Any]]:
    def entered() -> None:
        with forward_mode():
            pass

    return {"a level entered": entered}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--calls", type=int, default=200)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    table = Table(title="CPU us a call, median")
    for column in ("parameters", "part", "way", "us"):
        table.add_column(column, justify="right" if column == "us" else "left")
    for model in ("linear", "transformer"):
        params = dict(build(model, 4, torch.float32, "cpu").module.named_parameters())
        parts = {"tree": trees(params), "update": updates(params), "forward mode": forward_levels()}
        for part, works in parts.items():

            def repeated(work: Callable[[], Any]) -> Callable[[], None]:
                return lambda: [work() for _ in range(chosen.calls)] and None

            times = paired_times({way: repeated(work) for way, work in works.items()}, chosen.rounds, time.process_time)
            for way, taken in times.items():
                table.add_row(str(len(params)), part, way, f"{1e6 * statistics.median(taken) / chosen.calls:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()

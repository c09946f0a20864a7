"""Bytes that a hypergradient holds in each process, with the network whole in all of them and in shards over them.

    torchrun --nproc-per-node 2 benchmarks/shards.py --out benchmarks/results/shards.json

A network of equal layers whose parameters outweigh its activations, which is where shards are for. Bytes are counted tensor by
tensor (what an allocator keeps is more) and given in layers, so they are the same on every machine.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from metaimpute.engine import FunctionalModel, data_parallel, hypergradient, sgd
from metaimpute.engine.live_memory import LiveBytes
from metaimpute.environment import describe

LAYERS, WIDTH, ROWS = 8, 128, 2
CASES = [("first_order", 1, True), ("mixed", 1, False), ("mixed", 1, True), ("exact", 1, False), ("exact", 3, False)]


def network() -> nn.Sequential:
    return nn.Sequential(*[part for _ in range(LAYERS) for part in (nn.Linear(WIDTH, WIDTH), nn.Tanh())])


def in_shards() -> FunctionalModel:
    net, mesh = network(), init_device_mesh("cpu", (dist.get_world_size(),))
    for layer in net[::2]:
        fully_shard(layer, mesh=mesh)
    fully_shard(net, mesh=mesh)
    return FunctionalModel(net)


def peak(model: FunctionalModel, estimator: str, steps: int, wrt_start: bool) -> float:
    """Layers' worth of bytes at the peak of one hypergradient, beside the parameters themselves."""

    def inner_loss(params: Any, labels: Tensor, rows: Tensor) -> Tensor:
        return (model(params, rows) - labels).square().mean()

    def outer_loss(params: Any, labels: Tensor, rows: Tensor) -> Tensor:
        return model(params, rows).square().mean()

    losses = data_parallel(inner_loss, sharded=model), data_parallel(outer_loss, sharded=model)
    torch.manual_seed(0)
    rows, labels = torch.randn(2, ROWS, WIDTH)
    params = dict(model.params)
    with LiveBytes() as live:
        hypergradient(
            *losses, params, labels, [rows] * steps, sgd(0.1), estimator, outer_batch=rows, wrt_start=wrt_start, seed=0
        )
    return float(live.peak) / (4 * WIDTH * (WIDTH + 1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    whole, sharded = FunctionalModel(network()), in_shards()
    rows = [
        {"estimator": name, "steps": steps, "wrt_start": start,
         "whole": round(peak(whole, name, steps, start), 1), "in_shards": round(peak(sharded, name, steps, start), 1)}
        for name, steps, start in CASES
    ]  # fmt: skip
    if dist.get_rank() == 0:
        found = {
            "command": "torchrun --nproc-per-node 2 benchmarks/shards.py", "processes": dist.get_world_size(),
            "layers": LAYERS, "width": WIDTH, "rows": ROWS, "machine": describe(torch.device("cpu")), "peaks_in_layers": rows,
        }  # fmt: skip
        text = json.dumps(found, indent=1)
        print(text)
        if arguments.out:
            arguments.out.write_text(text + "\n")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()

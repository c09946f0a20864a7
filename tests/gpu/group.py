"""Run by torchrun on a device: several processes, or one in a group, have the hypergradients of the joined batch.

    torchrun --nproc-per-node N tests/gpu/group.py DEVICE BACKEND FOLDER

Processes may share one device where the backend lets them (gloo does). Writes ``FOLDER/RANK.json``: differences by name.
"""

from __future__ import annotations

import copy
import faulthandler
import itertools
import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from metaimpute.engine import Batches, FunctionalModel, adam, data_parallel, get_estimator, momentum
from metaimpute.engine.pytree import tensors

ESTIMATORS = ("exact", "mixed", "finite_difference", "first_order", "cg", "forward")
SHARDED = ("exact", "mixed", "first_order", "head")
RULES = {"momentum": momentum(0.3, 0.9), "adam": adam(0.05)}
ROWS = 8
PATIENCE = 45.0  # seconds


def off(found: Any, wanted: Any) -> float:
    """The largest difference of two trees, in units of the largest entry."""
    pairs = list(zip(tensors(found), tensors(wanted), strict=True))
    largest = max(float(b.abs().max()) for _, b in pairs)
    return max(float((a - b).abs().max()) for a, b in pairs) / (largest or 1.0)


def differences(device: torch.device, rank: int, size: int, shards: bool) -> dict[str, float]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.RMSNorm(7), nn.Linear(7, 3)).double().to(device)
    split = copy.deepcopy(net)
    rows, held = torch.randn(2, ROWS, 5, dtype=torch.float64).to(device)
    targets, labels = torch.randint(3, (ROWS,)).to(device), torch.randn(ROWS, 3, dtype=torch.float64).to(device)

    def mine(whole: Tensor) -> Tensor:
        return whole[ROWS // size * rank : ROWS // size * (rank + 1)]

    def losses(model: FunctionalModel) -> tuple[Any, Any]:
        def inner(params: Any, c: Tensor, batch: Tensor) -> Tensor:
            return F.cross_entropy(model(params, batch), c.softmax(-1))

        def outer(params: Any, c: Any, batch: tuple[Tensor, Tensor]) -> Tensor:
            return F.cross_entropy(model(params, batch[0]), batch[1]) + 0.01 * sum(
                p.square().sum() for p in params.values()
            )

        return inner, outer

    whole = FunctionalModel(net)
    every = Batches([rows, rows + 1], (held, targets))
    own = Batches([mine(rows), mine(rows + 1)], (mine(held), mine(targets)))
    if shards:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        mesh = init_device_mesh(device.type, (size,))
        fully_shard(split[0], mesh=mesh)
        fully_shard(split, mesh=mesh)
    model = FunctionalModel(split)
    found, more = {}, {"sharded": model} if shards else {}
    names = SHARDED if shards else ESTIMATORS
    for name, moves in itertools.product(names, RULES):
        rule = RULES[moves]
        if name in ("cg", "forward") and moves == "adam":
            continue
        options = {"parameters": ("3.weight", "3.bias")} if name == "head" else {}
        estimator = get_estimator(name, **options)
        inner, outer = losses(model)
        joined = data_parallel(inner, coupling="rows", **more), data_parallel(outer, **more)
        one = estimator.estimate(*losses(whole), dict(whole.params), labels, every, rule, 2, seed=3)
        many = estimator.estimate(*joined, dict(model.params), labels, own, rule, 2, seed=3)
        found[f"{name}, {moves}"] = max(off(many.grad_c, one.grad_c), off(many.outer_loss, one.outer_loss))
        assert many.grad_c.device.type == device.type
    return found


def main() -> None:
    faulthandler.dump_traceback_later(PATIENCE, exit=True)  # says in what processes wait for one another
    name, backend, folder = sys.argv[1:]
    device = torch.device(name)
    if device.type == "cuda":  # without a number: a card for each
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) if device.index is None else device.index)
    dist.init_process_group(backend)
    rank, size = dist.get_rank(), dist.get_world_size()
    found: dict[str, Any] = {"joined": differences(device, rank, size, False)}
    if device.type == "cpu" or "nccl" in backend:
        found["sharded"] = differences(device, rank, size, True)
    Path(folder, f"{rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()

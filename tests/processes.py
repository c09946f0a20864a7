"""Functions run in several processes of one torch.distributed group, for tests; forked, so that nothing is imported again."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def in_processes(size: int, folder: Path, function: Callable[..., Any], *args: Any) -> list[Any]:
    """What ``function(rank, size, *args)`` returns in each of ``size`` processes, which talk by gloo on the CPU."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads, none of which holds a lock of ours
        mp.start_processes(_one, args=(size, str(folder), function, args), nprocs=size, start_method="fork")
    return [torch.load(folder / f"found{rank}.pt", weights_only=False) for rank in range(size)]


def _one(rank: int, size: int, folder: str, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=size)
    try:
        torch.save(function(rank, size, *args), f"{folder}/found{rank}.pt")
    finally:
        dist.destroy_process_group()

"""How processes end: the first one says why, and the others, where it does, with exit code 0, so that torchrun lets it speak."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch.distributed as dist

from metaimpute.engine.across_ranks import LostProcess, ranks_of
from metaimpute.errors import UserError
from metaimpute.training import processes
from metaimpute.training.processes import Several
from tests.processes import in_processes


def a_mistake_in_the_second(several: Several) -> None:
    several.together(lambda: fail("a mistake") if several.rank == 1 else None)


def the_same_in_both(several: Several) -> None:
    fail("alike")


def the_first_alone(several: Several) -> None:
    if several.leads:
        fail("the disk is full")
    several.any(False)


def the_second_alone(several: Several) -> None:
    if not several.leads:
        fail("its own")
    several.any(False)


def the_first_is_gone(several: Several) -> None:
    if several.leads:
        dist.destroy_process_group()  # as the system does it for a process that is killed
        fail("heard by nobody")
    several.any(False)


def none(several: Several) -> None:
    several.any(False)


WAYS = (a_mistake_in_the_second, the_same_in_both, the_first_alone, the_second_alone, the_first_is_gone, none)


def fail(message: str) -> None:
    raise UserError(message)


def told(several: Several, way: Callable[[Several], None]) -> str:
    """What a process would say, or its exit code."""
    try:
        with several.hushed(), several.parting():
            way(several)
    except SystemExit as ended:
        return f"exit {ended.code}"
    except LostProcess:
        return "lost"
    except UserError as error:
        return str(error)
    return "went on"


def ends(rank: int, size: int, place: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    dist.destroy_process_group()
    for way in WAYS:
        store = dist.FileStore(str(place / way.__name__), size)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=size)
        processes.WORD = 0.5 if way is the_first_is_gone else 60.0
        found[way.__name__] = told(Several(ranks_of(), store), way)
        assert not dist.is_initialized()
    dist.init_process_group("gloo", store=dist.FileStore(str(place / "last"), size), rank=rank, world_size=size)
    return found


def test_the_first_says_why_and_the_others_end_with_0(tmp_path: Path) -> None:
    first, second = in_processes(2, tmp_path, ends, tmp_path)
    assert first == {
        "a_mistake_in_the_second": "process 1: a mistake",
        "the_same_in_both": "alike",
        "the_first_alone": "the disk is full",
        "the_second_alone": "lost",
        "the_first_is_gone": "heard by nobody",
        "none": "went on",
    }
    assert second == {
        "a_mistake_in_the_second": "exit 0",
        "the_same_in_both": "exit 0",
        "the_first_alone": "exit 0",
        "the_second_alone": "its own",
        "the_first_is_gone": "lost",
        "none": "went on",
    }

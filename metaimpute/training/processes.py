"""The processes that train one run together: one alone, or those that torchrun started.

Rows are dealt out process after process; what a step learns from them (losses, gradients, hypergradients, what is logged) is that
of the joined batch (:mod:`metaimpute.engine.distributed`), so that all take the same step. The first one leads: it alone writes,
evaluates and speaks.
"""

from __future__ import annotations

import contextlib
import os
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, NoReturn, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..batches import Batch, Imputation
from ..engine.across_ranks import LostProcess, Ranks, collective, ranks_of, reduce_from_ranks
from ..engine.distributed import Joined
from ..engine.pytree import Tree, tree_map
from ..errors import UserError
from ..problems.base import BilevelProblem
from ..rundir.begin import Beginning
from .dealt import Dealt

PATIENCE = timedelta(minutes=30)  # that one process waits for another, whose evaluation may take long
WORD = 5.0  # seconds that one waits for the first to say why the run ends
ENDED, SAID, LOST = "metaimpute/ended", "said", "lost"  # what the first leaves in the store, and how it ended
LAUNCHERS = {
    "SLURM_STEP_NUM_TASKS": "srun", "OMPI_COMM_WORLD_SIZE": "mpirun", "PMI_SIZE": "mpiexec", "WORLD_SIZE": "a launcher",
}  # fmt: skip
Made = TypeVar("Made")


class Unequal(UserError, RuntimeError):
    """Processes that should hold the same network and do not. Ends a command with exit code 2."""


class Processes:
    """One process alone, whose rows are all of them.

    Attributes:
        rank, size: this one's number, of how many.
    """

    rank, size = 0, 1

    @property
    def leads(self) -> bool:
        """Whether this process writes, evaluates and speaks."""
        return self.rank == 0

    def rows(self, tree: Tree) -> Tree:
        """This process's part of a tree of rows."""
        return tree

    def local(self) -> contextlib.AbstractContextManager[None]:
        """The surroundings of what a process computes on its own rows."""
        return contextlib.nullcontext()

    def loss(self, own: Callable[[Tree], Tensor], params: Tree) -> Tensor:
        """The joined batch's loss, from each process's own mean over rows."""
        return own(params)

    def dealt(self, problem: BilevelProblem) -> BilevelProblem:
        """The problem of the joined batch, given batches of one's own rows."""
        return problem

    def own(self, problem: BilevelProblem) -> BilevelProblem:
        """The problem as it is in one process, of a dealt one."""
        return problem

    def whole(self, batch: Batch) -> Batch:
        """The batch with the imputed labels, and the truth where it is known, of all rows."""
        return batch

    def gathered(self, rows: Tensor) -> Tensor:
        """The rows of all processes."""
        return rows

    def root_mean_square(self, value: Tensor) -> Tensor:
        """Of all rows, from that of each process's own."""
        return value

    def any(self, asked: bool) -> bool:
        """Whether any process asks."""
        return asked

    def together(self, make: Callable[[], Made]) -> Made:
        """What ``make`` returns here; where it fails in any process all end, and the first one says why, once."""
        return make()

    def led(self, begin: Callable[[Path | None], Beginning]) -> Beginning:
        """A beginning whose folder is the first process's choice; ``begin`` is given it by the others."""
        return begin(None)

    def synchronise(self, wanted: bool) -> None:
        """Whether BatchNorm takes the statistics of all rows."""

    def compare(self, *modules: nn.Module | None) -> None:
        """Holds the parameters of all processes against one another.

        Raises:
            Unequal: where they differ.
        """

    def unlike(self, values: dict[str, Tensor]) -> list[dict[str, Tensor]]:
        """Of each process a copy of those values that are not alike in all, bit for bit; nothing where all are."""
        return []

    def hushed(self) -> contextlib.AbstractContextManager[None]:
        """In the block a process beside the first ends in silence, with exit code 0, where the first one says why."""
        return contextlib.nullcontext()

    def parting(self) -> contextlib.AbstractContextManager[None]:
        """After the block, however it ends, the others are let go: what comes then is the first process's alone."""
        return contextlib.nullcontext()


class Several(Processes):
    """Processes of a torch.distributed group.

    Args:
        store: of torch.distributed, where the first leaves word of its end, for those that lose it.
    """

    def __init__(self, ranks: Ranks, store: Any = None) -> None:
        self.ranks, self.rank, self.size, self.store = ranks, ranks.rank, ranks.size, store
        self.joined = Joined(ranks)

    def synchronise(self, wanted: bool) -> None:
        self.joined = replace(self.joined, synchronised=wanted)

    def rows(self, tree: Tree) -> Tree:
        return tree_map(lambda leaf: leaf[self.ranks.rows(len(leaf))] if isinstance(leaf, Tensor) else leaf, tree)

    def local(self) -> contextlib.AbstractContextManager[None]:
        return self.joined.within()

    def loss(self, own: Callable[[Tree], Tensor], params: Tree) -> Tensor:
        params, _ = self.joined.enter(params, None)
        with self.local():
            value = own(params)
        return self.joined.leave(value)

    def dealt(self, problem: BilevelProblem) -> BilevelProblem:
        return cast(BilevelProblem, Dealt(problem, self.joined))

    def own(self, problem: BilevelProblem) -> BilevelProblem:
        return cast(Dealt, problem).problem

    def whole(self, batch: Batch) -> Batch:
        imputed, truth = batch.imputation, batch.unlabelled.truth
        with torch.no_grad():
            labels, weights, truth = self.joined.gathered((imputed.labels, imputed.weights, truth))
        return replace(batch, imputed=Imputation(labels, weights), unlabelled=replace(batch.unlabelled, truth=truth))

    def gathered(self, rows: Tensor) -> Tensor:
        found: Tensor = self.joined.gathered(rows)
        return found

    def root_mean_square(self, value: Tensor) -> Tensor:
        return reduce_from_ranks(self.ranks, [value.square() / self.size])[0].sqrt()

    def any(self, asked: bool) -> bool:
        count = reduce_from_ranks(self.ranks, [torch.tensor(float(asked), device="cpu")])[0]
        return bool(count > 0)

    def led(self, begin: Callable[[Path | None], Beginning]) -> Beginning:
        first = self.together(lambda: begin(None) if self.leads else None)
        folder = self._all(None if first is None else first.folder)[0]
        return self.together(lambda: begin(folder) if first is None else first)

    def _all(self, value: Any) -> list[Any]:
        found: list[Any] = [None] * self.size
        collective(lambda: dist.all_gather_object(found, value, group=self.ranks.group))
        return found

    def together(self, make: Callable[[], Made]) -> Made:
        failed: UserError | None = None
        try:
            made = make()
        except UserError as error:
            failed = error
        said = self._all(None if failed is None else (f"{failed.prefix}{failed}", failed.exit_code))
        for rank, found in enumerate(said):
            if found is not None:
                self._fail(failed, rank, *found)
        return made

    def _fail(self, own: UserError | None, rank: int, message: str, code: int) -> NoReturn:
        self.end()
        if not self.leads:
            raise SystemExit(0)
        if own is not None:
            raise own
        error = UserError(f"process {rank}: {message}")
        vars(error)["exit_code"] = code
        raise error

    def compare(self, *modules: nn.Module | None) -> None:
        found = self._all(digest_of([p for module in modules if module is not None for p in module.parameters()]))
        if len(set(found)) > 1:
            other = next(rank for rank, one in enumerate(found) if one != found[0])
            raise Unequal(
                f"process {other} holds other parameters than process 0, so that they no longer train one network; something in "
                "the step differs between them, such as a random number that is not torch's"
            )

    def unlike(self, values: dict[str, Tensor]) -> list[dict[str, Tensor]]:
        said = self._all({name: digest_of([value]) for name, value in values.items()})
        names = [name for name in values if len({one[name] for one in said}) > 1]
        return self._all({name: values[name].detach().to("cpu", copy=True) for name in names}) if names else []

    @contextlib.contextmanager
    def hushed(self) -> Iterator[None]:
        try:
            yield
        except UserError:
            if self.leads:
                raise
            self.end()
            if not self._first_says_why():
                raise
            raise SystemExit(0) from None

    def _first_says_why(self) -> bool:
        """Whether the first process has ended too, for a reason that it tells; waits a little for that."""
        until = time.monotonic() + WORD
        try:
            while self.store is not None and time.monotonic() < until:
                if self.store.check([ENDED]):
                    return bool(self.store.get(ENDED) == SAID.encode())
                time.sleep(0.05)
        except (RuntimeError, KeyboardInterrupt):  # the store is gone, or torchrun ends what is left
            pass
        return False

    @contextlib.contextmanager
    def parting(self) -> Iterator[None]:
        try:
            yield
        except LostProcess:
            self.end(LOST)
            raise
        finally:
            self.end()

    def end(self, word: str = SAID) -> None:
        """Leaves the group, if that has not been done; the first leaves word of it before."""
        if not dist.is_initialized():
            return
        if self.leads and self.store is not None:
            with contextlib.suppress(RuntimeError):
                self.store.set(ENDED, word)
        dist.destroy_process_group()


ALONE = Processes()


def mean_of(processes: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The means of what processes have; the first one's where that has no mean."""
    found = {name: [one[name] for one in processes] for name in processes[0]}
    return {
        name: torch.stack(values).mean(0) if values[0].is_floating_point() else values[0]
        for name, values in found.items()
    }


def digest_of(values: list[Tensor]) -> int:
    """A number that tells one set of tensors from another, bit for bit."""
    found = 0
    for value in values:
        found = zlib.crc32(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes(), found)
    return found


def launched() -> int:
    """How many processes torchrun started beside and with this one; 1 without torchrun."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "TORCHELASTIC_RUN_ID" in os.environ else 1


def first_launched() -> bool:
    """Whether this is the first of the processes that torchrun started, which speaks."""
    return os.environ.get("RANK", "0") == "0"


def started_apart() -> str | None:
    """What started several processes, each of which makes a run of its own, with how many; None under torchrun and alone."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return None
    for name, launcher in LAUNCHERS.items():
        count = os.environ.get(name, "")
        if count.isdecimal() and int(count) > 1:
            return f"{launcher} started {count} processes"
    return None


@contextlib.contextmanager
def processes_of_torchrun() -> Iterator[Processes]:
    """The processes that torchrun started, or this one alone."""
    if launched() == 1:
        yield ALONE
        return
    from torch.distributed.rendezvous import rendezvous

    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo"
    store, rank, size = collective(lambda: next(iter(rendezvous("env://", timeout=PATIENCE))))
    store.set_timeout(PATIENCE)
    collective(lambda: dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=PATIENCE))
    several = Several(ranks_of(), store)
    try:
        yield several
    finally:
        several.end()


def device_of(device: torch.device, processes: Processes) -> torch.device:
    """The device of this process, of those of a kind.

    Raises:
        ValueError: where there are fewer than processes on this machine.
    """
    if processes.size == 1 or device.type == "cpu":
        return device
    number, here = (
        int(os.environ.get(name, default)) for name, default in (("LOCAL_RANK", "0"), ("LOCAL_WORLD_SIZE", "1"))
    )
    count = torch.accelerator.device_count()
    if here > count:
        raise ValueError(
            f"{here} processes on this machine and {count} {device.type} devices; start {count}, or write cpu"
        )
    torch.accelerator.set_device_index(number)
    return torch.device(device.type, number)

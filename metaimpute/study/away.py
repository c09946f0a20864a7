"""Runs of a study on a cluster: each in a fresh process on a node, as :mod:`metaimpute.study.workers` makes them here.

A node that sees the study's folder, on a disk that both have, works in it, and a run whose worker dies goes on from its last
checkpoint. Any other node works in a folder of its own: what there is of the run goes there and comes back as an archive, when
the run is over or is asked to stop; of one that dies there, what it did since is lost.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from ..cluster.archive import pack, unpack
from ..cluster.calls import Call, Cluster, Desk, Lost, Reached
from ..cluster.driver import Next, carry_out
from ..cluster.modules import files_of, names_there
from ..plugins import imported_from
from ..rundir.files import Busy, locked, write_text
from ..rundir.layout import CHECKPOINTS, is_run
from ..rundir.origin import Begun, write_begun
from .runs import UNFINISHED, Job, Outcome, note_failure
from .workers import Done, Heard, Place, Worker

BEAT = 1.0  # seconds between two questions whether to stop
WINDING_DOWN = 120.0  # seconds that a process of an earlier try may hold a run's folder
MARK = ".study-folder"  # a node that finds it with this driver's word in it sees the study's folder
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
Told = Callable[[str], None]


@dataclass(frozen=True)
class Origin:
    """The driver's side, for a node to find out whether it sees the same disk.

    Attributes:
        cwd: the driver's. mark, word: a file in the study's folder and what it holds. modules: named with ``--import``.
        environment: variables that numbers depend on; None for one that is not set.
    """

    cwd: Path
    mark: Path
    word: str
    modules: tuple[str, ...]
    environment: Mapping[str, str | None]


@dataclass(frozen=True)
class Back:
    """What became of a run, and its folder where that is not the driver's."""

    outcome: Outcome
    folder: bytes | None = None


def on_cluster(cluster: Cluster, out: Path, retries: int, told: Told, gpus: float = 0) -> Place:
    """A cluster's nodes as the place where runs are carried out.

    Args:
        out: the study's folder. retries: of a run whose worker or node died. told: hears of each that is tried again.
        gpus: that a run has; with none it sees no accelerator.
    """

    def place(jobs: Iterable[Job], done: Done, heard: Heard) -> None:
        out.mkdir(parents=True, exist_ok=True)
        hidden = {} if gpus else {"CUDA_VISIBLE_DEVICES": ""}
        origin = Origin(
            Path.cwd(), (out / MARK).absolute(), secrets.token_hex(16), tuple(imported_from()),
            {name: os.environ.get(name) for name in THREADS} | hidden,
        )  # fmt: skip
        write_text(origin.mark, origin.word)
        by_name = {f"{job.row}, seed {job.seed}": job for job in jobs}
        files = files_of(imported_from())

        def over(call: Call, back: Back) -> None:
            job = by_name[call.name]
            _put_back(job, back.folder)
            if back.outcome != UNFINISHED:  # as it was asked to stop
                done(job, back.outcome)

        def died(call: Call, lost: Lost, then: Next) -> None:
            job = by_name[call.name]
            _put_back(job, lost.kept)
            if then == "again":
                told(f"{call.name}: {lost.reason}; it is tried again")
            elif then == "given up":
                done(job, note_failure(job, "failed", lost.reason))

        def reached(call: Call, found: Reached) -> None:
            heard(by_name[call.name], found)

        try:
            calls = [_call(name, job, origin, files) for name, job in by_name.items()]
            carry_out(calls, cluster, over, died, reached, retries)
        finally:
            origin.mark.unlink(missing_ok=True)

    return place


def _call(name: str, job: Job, origin: Origin, files: Mapping[str, bytes]) -> Call:
    recipe = f"recipe/{job.recipe.name}"

    def arguments() -> tuple[Job, Origin, bytes | None]:
        begun = is_run(job.folder) and (job.folder / CHECKPOINTS).is_dir()
        return job, origin, pack(job.folder) if begun else None

    return Call(name, f"{__name__}:make", arguments, {recipe: job.recipe.read_bytes(), **files})


def _put_back(job: Job, folder: bytes | None) -> None:
    if folder is not None:
        unpack(folder, job.folder)
        write_begun(job.folder, Begun(str(job.recipe), job.profile, job.why))


# on the node -------------------------------------------------------------------------------------------------------------


def make(job: Job, origin: Origin, before: bytes | None, desk: Desk) -> Back | Lost:
    """Makes a run on a node.

    Args:
        before: what there was of it, as an archive; not looked at where the node sees the study's folder.
    """
    if sees(job, origin, desk.folder / "recipe" / job.recipe.name):
        found = _made(replace(job, folder=origin.cwd / job.folder), origin.cwd, origin.modules, origin, desk)
        return found if isinstance(found, Lost) else Back(found)
    away = replace(job, folder=desk.folder / "run", copy=desk.folder / "recipe" / job.recipe.name)
    if before is not None:
        unpack(before, away.folder)
    found = _made(away, desk.folder, names_there(origin.modules), origin, desk)
    kept = pack(away.folder) if is_run(away.folder) or isinstance(found, Outcome) else None
    return replace(found, kept=kept) if isinstance(found, Lost) else Back(found, kept)


def sees(job: Job, origin: Origin, recipe: Path) -> bool:
    """Whether this machine has the driver's folder, and the recipe and modules where the driver has them."""
    try:
        if origin.mark.read_text() != origin.word:
            return False
        files = [origin.cwd / name for name in origin.modules if name.endswith(".py")]
        same = (origin.cwd / job.recipe).read_bytes() == recipe.read_bytes()
        return same and all(file.is_file() for file in files)
    except OSError:
        return False


def _made(job: Job, cwd: Path, modules: Iterable[str], origin: Origin, desk: Desk) -> Outcome | Lost:
    """Makes a run in a process of its own, and asks it to stop when the driver does."""
    with _surroundings(cwd, origin.environment):
        _wait_for(job.folder)
        worker = Worker(list(modules), alone=True)  # on CPUs that are the run's
    stopped = False
    try:
        worker.give(job)
        while True:
            if worker.connection.poll(BEAT):
                heard = worker.hear()
                if heard is None:
                    break
                desk.tell(heard[1])
            if not stopped and desk.stopping():
                worker.stop()
                stopped = True
        outcome = worker.take()[1]
    finally:
        worker.end()
    if outcome == UNFINISHED and not stopped:
        return Lost("its node ended it")
    return outcome if worker.alive or stopped else Lost(outcome.reason)


@contextlib.contextmanager
def _surroundings(cwd: Path, environment: Mapping[str, str | None]) -> Iterator[None]:
    """The current folder and variables that a process which is begun in the block has."""
    before, known = Path.cwd(), {name: os.environ.get(name) for name in environment}
    try:
        os.chdir(cwd)
        _set(environment)
        yield
    finally:
        os.chdir(before)
        _set(known)


def _set(environment: Mapping[str, str | None]) -> None:
    for name, value in environment.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def _wait_for(folder: Path) -> None:
    """Until no process holds a run's folder: one whose node's worker died is still writing its checkpoint."""
    end = time.monotonic() + WINDING_DOWN
    while is_run(folder) and time.monotonic() < end:
        try:
            with locked(folder):
                return
        except Busy:
            time.sleep(0.5)

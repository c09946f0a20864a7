"""Worker processes: each makes runs one after another, and one that dies takes no more with it than its run."""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from ..cluster.calls import Reached
from ..plugins import import_module, imported_from
from ..progress import Phase, heard_by
from .runs import UNFINISHED, Job, Outcome, note_failure, perform

Done = Callable[[Job, Outcome], None]
BETWEEN = 0.5  # seconds between two words of a worker
Heard = Callable[[Job, Reached], None]
Place = Callable[[Iterable[Job], Done, Heard], None]  # where runs are carried out; as run_all, which is one


def here(workers: int) -> Place:
    """This machine, with so many processes; see :func:`run_all`."""

    def place(jobs: Iterable[Job], done: Done, heard: Heard) -> None:
        run_all(jobs, workers, done, heard)

    return place


def run_all(jobs: Iterable[Job], workers: int, done: Done, heard: Heard = lambda job, reached: None) -> None:
    """Makes the runs in their order, several at a time, and reports each when it is over.

    Args:
        workers: processes; 0 makes the runs in this one. heard: told by a worker's runs how far they have come.

    Raises:
        KeyboardInterrupt: once every run under way has written a checkpoint and stopped; again: at once.
    """
    if workers == 0:
        for job in jobs:
            outcome = perform(job)
            done(job, outcome)
            if outcome == UNFINISHED:
                raise KeyboardInterrupt
        return
    waiting, busy = deque(jobs), list[Worker]()
    alone = workers == 1
    idle = [Worker(alone=alone) for _ in range(min(workers, len(waiting)))]
    try:
        while waiting or busy:
            while waiting and len(busy) < workers:
                worker = idle.pop() if idle else Worker(alone=alone)
                worker.give(waiting.popleft())
                busy.append(worker)
            for worker in _ready(busy):
                reached = worker.hear()
                if reached is not None:
                    heard(*reached)
                    continue
                job, outcome = worker.take()
                busy.remove(worker)
                if worker.alive:
                    idle.append(worker)
                done(job, outcome)
    except KeyboardInterrupt:
        for worker in busy:
            worker.stop()
        for worker in busy:
            job, outcome = worker.take()
            if outcome.status == "finished":
                done(job, outcome)
        raise
    finally:
        for worker in (*idle, *busy):
            worker.end()


def _ready(busy: list[Worker]) -> list[Worker]:
    heard = wait([worker.connection for worker in busy])
    return [worker for worker in busy if worker.connection in heard]


class Worker:
    """A process that makes one run at a time.

    Args:
        modules: that it imports first; by default those that this one was told to. alone: it has cores to itself, so that its
            runs may start processes that prepare their batches (``train.workers``).
    """

    def __init__(self, modules: Sequence[str] | None = None, alone: bool = False) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(
            target=_serve,
            args=(theirs, imported_from() if modules is None else dict.fromkeys(modules), alone),
            daemon=True,
        )
        self.process.start()
        theirs.close()
        self.job: Job | None = None
        self.alive, self._stopped = True, False
        self._received: Any = None

    def give(self, job: Job) -> None:
        self.job = job
        try:
            self.connection.send(job)
        except OSError:  # it has died; take() says of what
            self.alive = False

    def hear(self) -> tuple[Job, Reached] | None:
        """How far the run has come, where that is what there is to receive; what else there is stays for :meth:`take`."""
        assert self.job is not None
        if self._received is None:
            try:
                self._received = self.connection.recv()
            except (EOFError, OSError):
                return None
        if isinstance(self._received, Reached):
            reached, self._received = self._received, None
            return self.job, reached
        return None

    def take(self) -> tuple[Job, Outcome]:
        """Waits for the end of the run, or of the process."""
        assert self.job is not None
        try:
            while True:
                found, self._received = self._received or self.connection.recv(), None
                if isinstance(found, Outcome):
                    return self.job, found
        except (EOFError, OSError):
            self.alive = False
            self.process.join()
            if self._stopped:
                return self.job, UNFINISHED
            return self.job, note_failure(self.job, "failed", _cause_of_death(self.process.exitcode))

    def stop(self) -> None:
        """Asks a run to write a checkpoint and stop."""
        self._stopped = True
        self.process.terminate()

    def end(self) -> None:
        self.connection.close()
        self.process.kill()
        self.process.join()


def _cause_of_death(code: int | None) -> str:
    if code is None or code >= 0:
        return f"its process ended with exit code {code}"
    name = signal.Signals(-code).name
    return f"its process was ended by {name}{' (short of memory?)' if name == 'SIGKILL' else ''}"


class _Telling:
    """Listens to the phases of a worker's run and tells the parent of the outermost."""

    def __init__(self, connection: Connection) -> None:
        self.phases: list[Phase] = []
        self._connection, self._next = connection, 0.0

    def moved(self) -> None:
        now = time.monotonic()
        if self.phases and now >= self._next:
            self._next = now + BETWEEN
            one = self.phases[0]
            with contextlib.suppress(OSError):  # the parent is gone, and _follow_parent sees to that
                self._connection.send(Reached(one.name, one.done, one.total))


def _serve(connection: Connection, modules: Mapping[str, Path | None], alone: bool) -> None:
    """A worker's life: jobs in, outcomes out, until the pipe closes."""
    if (
        alone
    ):  # to its parent it is a daemon still, which ends with it; by itself it may have children, which end with it
        multiprocessing.current_process()._config["daemon"] = False  # type: ignore[attr-defined]
    if hasattr(os, "setpgid"):
        os.setpgid(0, 0)  # Ctrl-C is for the parent, which then asks every worker to stop
    threading.Thread(target=_follow_parent, daemon=True).start()
    for name, folder in modules.items():
        import_module(name, folder)
    while True:
        try:
            job = connection.recv()
        except EOFError:
            return
        with heard_by(_Telling(connection)):
            outcome = perform(job)
        gc.collect()
        connection.send(outcome)


def _follow_parent() -> None:
    """Stops the run under way, with a checkpoint, when the parent is gone."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)

"""Batches of future steps, prepared by worker processes while the network trains.

A batch is a function of (seed, step), so whoever makes it makes the same one: torch's loader is given the steps as its data set.
Its processes are forks of this one, begun where the run stands. So a task need not be pickled (tasks are users' classes, and hold
files and closures), and the data that is in memory is shared and not copied. A fork must not use threads that this process had:
each works on one thread of torch, which enters no OpenMP region, without the tokenizers' pool, and never on an accelerator.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
import threading
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset
from torch.utils.data._utils import signal_handling

from ..batches import Batch, Labelled
from ..errors import INTERRUPTED, UserError
from ..progress import unheard
from .data import BatchSource
from .drawn import Drawn, require_passable

IGNORED = ("SIGINT", "SIGHUP")  # they are for the run, which ends its workers itself


class WorkerDied(UserError, RuntimeError):
    """A process that prepared batches is gone; no training step was under way. Ends a command with exit code 130."""

    exit_code = INTERRUPTED


class Ahead:
    """The batches of one step after another, made here or by ``workers`` processes ahead of their use.

    Args:
        source: of the batches. workers: processes; 0: none. holdout: whether steps have a hold-out batch.
        steps: of the run, after which nothing is prepared.
    """

    def __init__(self, source: BatchSource, workers: int, holdout: bool, steps: int) -> None:
        self.source, self.workers, self.holdout, self.steps = source, workers, holdout, steps
        self._prepared: Any = None
        self._next = 0

    def __call__(self, step: int) -> tuple[Batch, Labelled | None]:
        """The batches of ``step`` on the device. After any step but the one before, workers begin anew.

        Raises:
            WorkerDied: when one has ended. Exception: whatever making the batches raised, there as here.
        """
        drawn = self.source.drawn(step, self.holdout) if self.workers == 0 else self._from_worker(step)
        found = self.source.carried(drawn)
        return found.batch, found.holdout

    def close(self) -> None:
        """Ends the workers; another call begins them anew."""
        if self._prepared is not None:
            prepared, self._prepared = self._prepared, None
            prepared._shutdown_workers()

    def _from_worker(self, step: int) -> Drawn:
        if self._prepared is None or step != self._next:
            self.close()
            self._prepared = _begun(self.source, self.workers, self.holdout, range(step, max(self.steps, step + 1)))
        try:
            found = next(self._prepared)
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            raise WorkerDied(self._obituary()) from None
        except BaseException:
            self.close()
            raise
        if isinstance(found, Failure):
            self.close()
            raise found.error()
        self._next = step + 1
        drawn: Drawn = found
        return drawn

    def _obituary(self) -> str:
        codes = [code for process in self._prepared._workers if (code := process.exitcode)]
        self.close()
        if not codes or codes[0] > 0:
            how = f"ended with exit code {codes[0]}" if codes else "ended"
        else:
            name = signal.Signals(-codes[0]).name
            short = {"SIGKILL": " (short of memory?)", "SIGBUS": " (short of shared memory, /dev/shm?)"}.get(name, "")
            how = f"was ended by {name}{short}"
        return f"a process that prepared batches {how}; train.workers: 0 does without them"


def _begun(source: BatchSource, workers: int, holdout: bool, steps: range) -> Any:
    """An iterator over the batches of the steps, its processes started."""
    pins = source.device.type != "cpu"
    loader = DataLoader(
        _Steps(source, holdout), batch_size=None, sampler=steps, num_workers=workers, worker_init_fn=_begin,
        multiprocessing_context="fork", pin_memory=pins, generator=torch.Generator(device="cpu"),
    )  # fmt: skip
    with _signals_kept(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of more workers than cores, and from Python 3.12 of any fork beside threads
        return iter(loader)


@contextlib.contextmanager
def _signals_kept() -> Iterator[None]:
    """Without the handler by which torch's loader would raise in the middle of a training step when a worker ends."""
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "SIGCHLD"):
        yield
        return
    before, was_set = signal.getsignal(signal.SIGCHLD), signal_handling._SIGCHLD_handler_set
    try:
        yield
    finally:
        if not was_set and before is not None:
            signal.signal(signal.SIGCHLD, before)
            signal_handling._SIGCHLD_handler_set = False


def _begin(worker: int) -> None:
    """What a worker changes of the process that it is a copy of."""
    for name in IGNORED:
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the pool's threads are not in a fork, and it would wait for them
    unheard()


class _Steps(Dataset[Any]):
    """Numbers of steps to their batches; what goes wrong is handed over in the place of them."""

    def __init__(self, source: BatchSource, holdout: bool) -> None:
        self.source, self.holdout = source, holdout

    def __getitem__(self, step: int) -> Drawn | Failure:
        try:
            drawn = self.source.drawn(step, self.holdout)
            require_passable(drawn)
            return drawn
        except Exception as error:
            return Failure(error)


class Failure:
    """An error on its way between two processes: its class and what it says, and no call of its constructor again."""

    def __init__(self, error: Exception) -> None:
        reduced: Any = error.__reduce__()
        self.kind, self.arguments = type(error), reduced[1] if isinstance(error, OSError) else error.args
        self.state = {name: value for name, value in vars(error).items() if _pickles(value)}
        if not self._says(str(error)):
            self.kind, self.arguments = _nearest(error)

    def error(self) -> Exception:
        """The error, to be raised in another process."""
        made: Exception = self.kind.__new__(self.kind, *self.arguments)
        vars(made).update(self.state)
        return made

    def pin_memory(self) -> Failure:
        """Itself: torch's loader asks it of all that it is given."""
        return self

    def _says(self, text: str) -> bool:
        """Whether another process would find the same in it."""
        try:
            return _pickles((self.kind, self.arguments)) and str(self.error()) == text
        except Exception:  # a class of the user's own may do anything
            return False


def _nearest(error: Exception) -> tuple[type[Exception], tuple[str]]:
    """A class that any process has and what it says in the place of an error: another line for the user, or a fault's name."""
    name = type(error).__name__
    for kind in type(error).__mro__:
        if issubclass(kind, UserError) and _pickles(kind):
            return kind, (str(error) or name,)
    return RuntimeError, (f"{name}: {error}",)


def _pickles(value: Any) -> bool:
    try:
        pickle.loads(pickle.dumps(value))
    except Exception:  # of whatever cannot be pickled
        return False
    return True


def has_workers_of_its_own() -> bool:
    """Whether processes may be started here: torch's and Python's own workers, such as a study's, have none."""
    return not multiprocessing.current_process().daemon

"""A run from recipe to result: load, train by Algorithm 1, evaluate, checkpoint, resume, record."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from ..engine.ambient import as_usual
from ..ensemble.measuring import COUNTED, Measure, here
from ..errors import INTERRUPTED, UserError
from ..progress import phase
from ..recipes.recipe import Recipe
from ..rundir import checkpoint
from ..rundir.board import write_end
from ..rundir.export import digest, export
from ..rundir.files import Unwritable, locked, refuse_link, remove_leftovers, write_json
from ..rundir.layout import CHECKPOINTS, DIVERGED, checkpoint_path
from ..rundir.logs import NoLog, RunLog, write_recipe
from ..rundir.origin import Begun, write_begun
from ..rundir.result import Result
from ..rundir.systems import Systems
from ..terminal import argument, is_utf_8
from .ahead import WorkerDied
from .assemble import take_step
from .choosing import check_choosable, systems_of
from .finite import Diverged
from .interruption import stopping_on_signals
from .processes import ALONE, Processes
from .row_weights import write_row_weights
from .samples import sampled_rows
from .state import RunState
from .summary import final_raw, summary_of
from .trajectories import Trajectories

Report = Callable[[int, dict[str, float]], None]
TRAINING = "training"


class Interrupted(UserError, RuntimeError):
    """The run was asked to stop; a checkpoint has been written. Ends a command with exit code 130.

    Attributes:
        timed: whether its time limit asked for it.
    """

    exit_code = INTERRUPTED

    def __init__(self, message: str, timed: bool = False) -> None:
        super().__init__(message)
        self.timed = timed


class Session(RunState):
    """A run in its folder. Build it from a recipe, then call :meth:`run`.

    Args:
        folder: run directory. why, begun: why its profile was chosen, and how it was begun, to be kept with it.
        say: receives one-line messages. report: receives metrics as they are logged.
        seconds: after which it stops with a checkpoint; ``limit`` is how the user wrote that.
        processes: that train together, of which this is one. measure: where the systems of ``choose`` are measured.

    Raises:
        RecipeError: for options the data cannot meet. MissingData: when data or weights are absent.
    """

    def __init__(
        self, recipe: Recipe, folder: Path, *, why: str = "", begun: Begun | None = None,
        say: Callable[[str], None] = print, report: Report | None = None, seconds: float = float("inf"), limit: str = "",
        processes: Processes = ALONE, measure: Measure = here,
    ) -> None:  # fmt: skip
        self._until, self._limit = time.monotonic() + seconds, limit
        super().__init__(recipe, say, processes)
        check_choosable(recipe)
        self.folder, self.why, self.begun, self._measure = folder, why, begun, measure
        self.report = report or (lambda step, values: None)
        self.report_system: Callable[[str, int, int], None] = lambda name, done, of: None
        self.trajectories: Trajectories | None = None
        self._stop = False

    @as_usual()
    def resume(self) -> None:
        """Continues from the newest readable checkpoint of the run directory, or begins where none had been written yet.

        Raises:
            NoCheckpoint: when none of those written can be read, or is there any more. NotOurs: when their folder is a link.
        """
        refuse_link(self.folder / CHECKPOINTS)
        if not checkpoint.existing(self.folder):
            checkpoint.require_unbegun(self.folder)
            self.say("no checkpoint had been written yet: beginning at step 0")
            return
        state, path, skipped = checkpoint.latest(self.folder)
        for message in skipped:
            self.say(message)
        self.load_state(state)
        self.say(f"resumed from {path.name} at step {self.step} of {self.recipe.steps}")

    def save(self) -> None:
        """Writes a checkpoint.

        Raises:
            Unequal: where the processes of the run have come apart.
        """
        self._settle()
        with self.averaging() as own:
            if self.processes.leads:
                checkpoint.save(self.folder, self.step, self.state() | {"buffers": own})

    def _settle(self) -> None:
        self.algorithm.settle()
        self.processes.compare(self.module, self.averaged)

    # training --------------------------------------------------------------------------------------------------------

    @as_usual()
    def run(self) -> Result:
        """Trains to the end and returns what is written to ``result.json``.

        Raises:
            Interrupted: on SIGINT, SIGTERM or SIGHUP, or after :meth:`stop`, after the current step and a checkpoint.
            Diverged: when a loss is not finite; names the last good checkpoint and the file with the step's diagnostics.
            Busy: when another process is training in the run directory.
            Unwritable: when the run directory cannot be written to; what had been written before is whole.
        """
        if not is_utf_8(self.folder):
            raise Unwritable(f"{self.folder} is not a name that TensorBoard's files can have; choose another folder")
        try:
            with locked(self.folder):
                remove_leftovers(self.folder)
                if self.begun is not None:
                    write_begun(self.folder, self.begun)
                write_recipe(self.folder, self.recipe.resolved)
                with stopping_on_signals(self.stop, lambda: self._stop, self.say, self.processes.size > 1):
                    self._train_to_the_end(RunLog(self.folder, self.step, self.say))
                    systems = self._choose()
                raw = final_raw(self, systems)
                if (tested := sampled_rows(raw, self.task, self.data.test)) is not None:
                    tested.write(self.folder)
                result = summary_of(self, self.why, raw, systems)
                if systems is not None:
                    systems.save(self.folder)
                self._write_row_weights()
                export(self.folder, self.evaluated_module(), self.task)
                result = dataclasses.replace(result, weights_sha256=digest(self.folder))
                write_end(self.folder, result, tested, self.recipe.resolved)
                result.write(self.folder)
                return result
        except OSError as error:
            elsewhere = error.filename is not None and not Path(error.filename).is_relative_to(self.folder)
            if elsewhere or isinstance(error, FileExistsError | NotADirectoryError):
                raise
            where = error.filename or self.folder
            again = f"; mend that and go on with --resume {argument(self.folder)}" if self._checkpoints() else ""
            raise Unwritable(f"cannot write {where}: {error.strerror or error}; {self._last_good()}{again}") from None

    def _write_row_weights(self) -> None:
        meta = self.algorithm.meta
        weights = None if meta is None else self.algorithm.problem.row_weights(meta)
        if weights is not None:
            path = write_row_weights(self.folder, weights, self.batches.labelled, self.task)
            doubted = int((weights < 0.5).sum())
            self.say(f"{doubted:,} of {len(weights):,} labelled rows have learned a weight below a half: {path}")

    def follow(self) -> None:
        """Trains along with the first process, which alone writes and evaluates, and ends with the training.

        Raises:
            Interrupted, Diverged: as :meth:`run` does there.
        """
        with stopping_on_signals(self.stop, lambda: self._stop, self.say, True):
            self._train_to_the_end(NoLog())

    def _train_to_the_end(self, log: RunLog | NoLog) -> None:
        with self.processes.parting():
            self._train(log)
            self.save()
            self.average()

    def _train(self, log: RunLog | NoLog) -> None:
        train, drawn = self.recipe.train, self.data.unlabelled
        if len(drawn) and self.batches.needs_unlabelled and self.recipe.steps and self.processes.leads:
            self.trajectories = Trajectories(
                self.folder, self.task, self.module, drawn, train.seed, self.device, self.step, self.say
            )
        started, before = time.perf_counter(), self.seconds
        try:
            self._settle()
            if self.processes.any(self.step == 0 and not checkpoint.existing(self.folder)):
                self.save()  # so that a run killed before its first checkpoint can be resumed as well
            with phase(TRAINING, self.recipe.steps, self.step) as reached:
                while self.step < self.recipe.steps:
                    self._one_step(log)
                    reached.to(self.step)
                    self.seconds = before + time.perf_counter() - started
                    self._look_at_the_clock()
                    stop = self.processes.any(self._stop)
                    if self.step % train.checkpoint_every == 0 or stop:
                        self.save()
                    if stop:
                        raise self._interrupted(
                            f"stopped at step {self.step}; continue with --resume {argument(self.folder)}"
                        )
            if skipped := self.algorithm.skipped:
                self.say(f"note: {skipped:,} updates were left out, whose gradients were not finite in float16")
        except Diverged as error:
            raise self._diverged(error, log) from None
        except WorkerDied as error:
            if self.processes.size == 1:  # the others are in the middle of a step
                self.save()
            again = f"continue with --resume {argument(self.folder)}"
            raise WorkerDied(f"stopped at step {self.step}: {error}; {again}") from None
        finally:
            self.parts.ahead.close()
            log.close()

    def _choose(self) -> Systems | None:
        """The systems that the recipe has combined with the network, if any."""
        if self.recipe.choose is None:
            return None

        def between() -> None:
            self._look_at_the_clock()
            if self._stop:
                raise self._interrupted(f"stopped between systems; continue with --resume {argument(self.folder)}")

        started = time.perf_counter()
        found = systems_of(self, between, self.report_system, self._measure)
        self.seconds += time.perf_counter() - started
        for line in doubts_about(found, len(self.data.chosen.intersection(self.data.labelled.ids.tolist()))):
            self.say(f"warning: {line}")
        return found

    def _look_at_the_clock(self) -> None:
        self._stop = self._stop or time.monotonic() >= self._until

    def _interrupted(self, where: str) -> Interrupted:
        timed = time.monotonic() >= self._until
        why = f"the time limit of {self._limit} is over: " if timed else ""
        return Interrupted(f"{why}{where}", timed)

    def _last_good(self, but: Path | None = None) -> str:
        good = [path for path in self._checkpoints() if path != but]
        return f"last good checkpoint: {good[-1]}" if good else "no checkpoint had been written yet"

    def _checkpoints(self) -> list[Path]:
        """For a message; none where they cannot be listed."""
        try:
            return checkpoint.existing(self.folder)
        except checkpoint.NoCheckpoint:
            return []

    def _diverged(self, error: Diverged, log: RunLog | NoLog) -> Diverged:
        """Writes what is known of the step to ``diverged.json`` and says where."""
        # the weights of a checkpoint at this very step are those whose loss is not finite
        step = self.step if error.step is None else error.step
        bad = checkpoint_path(self.folder, step) if step else None
        last, batch, path = self._last_good(bad), self.batches.batch(step), self.folder / DIVERGED
        rows = [self.processes.gathered(part.index) for part in (batch.labelled, batch.unlabelled)]
        if not self.processes.leads:
            return error
        rates = self.schedulers[0]
        norms = {name: float(p.detach().norm()) for name, p in self.module.named_parameters()}
        found = {
            "step": step, "error": str(error), "checkpoint": last,
            "lr": rates.base_lrs[0] * rates.lr_lambdas[0](step),
            "last_metrics": log.last, "labelled_rows": self.batches.labelled.ids[rows[0]].tolist(),
            "unlabelled_rows": self.data.unlabelled.ids[rows[1]].tolist(), "parameter_norms": norms,
        }  # fmt: skip
        write_json(path, found)
        return Diverged(f"{error}; {last}; the step's diagnostics: {path}")

    def stop(self) -> None:
        """Asks a run to end after the step under way, with a checkpoint."""
        self._stop = True

    def _one_step(self, log: RunLog | NoLog) -> None:
        train, step = self.recipe.train, self.step
        measure = (step + 1) % train.log_every == 0 or step + 1 == train.steps
        rate = self.schedulers[0].get_last_lr()[0]
        found = take_step(self.parts, self.recipe, step, measure=measure, watch=self.watch if measure else None)
        if measure or (step + 1) % train.eval_every == 0:
            self.algorithm.settle()
        self.step += 1
        if measure:
            values = {name: float(value) for name, value in found.items()} | {"lr": float(rate)}
            for warning in self.alarms.look(values, self.step == train.steps):
                self.say(warning)
            log.write(self.step, values)
            with self.averaging():
                if self.trajectories is not None:
                    self.trajectories.write(self.step)
            self.report(self.step, values)
        if not self.is_evaluated():
            return
        self._settle()
        with self.averaging():
            errors = self.evaluate() if self.processes.leads else {}
        if errors:
            log.write(self.step, {k: v for k, v in errors.items() if k != "step"})
            self.report(self.step, errors)


def doubts_about(systems: Systems, chosen: int = 0) -> Iterator[str]:
    """What took no part in a combination or its measurement, a line each; ``chosen``: labelled examples that were picked."""
    for name, reason in systems.ensemble.left_out.items():
        yield f"system '{name}' was left out: {reason}"
    held_out = systems.ensemble.held_out
    others = len(held_out) - chosen
    if chosen and others >= COUNTED:
        yield f"the expected error is measured on {others:,} labels: those that came with corrections, {chosen:,}, were picked"
    elif chosen:
        yield f"the expected error may be too high: {chosen:,} of the labels it is measured on came with corrections"
    alone = int(np.isnan(held_out if held_out.ndim == 1 else held_out[:, 0]).sum())
    if 0 < alone < len(held_out):
        several = "examples are the only ones of their class, or copies of it"
        who = "example is the only one of its class" if alone == 1 else several
        yield f"{alone:,} labelled {who}: not held out, and counted as wrong in the expected error"

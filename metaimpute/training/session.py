"""A run from recipe to result: load, train by Algorithm 1, evaluate, checkpoint, resume, record."""

from __future__ import annotations

import dataclasses
import statistics
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..environment import describe
from ..plugins import imported
from ..recipes.recipe import Recipe
from ..rundir import checkpoint
from ..rundir.export import digest, export
from ..rundir.files import Unwritable, locked, refuse_link, remove_leftovers
from ..rundir.layout import CHECKPOINTS, DIVERGED, checkpoint_path
from ..rundir.logs import RunLog, write_json, write_recipe
from ..rundir.origin import Begun, write_begun
from ..rundir.result import Result
from ..terminal import argument, is_utf_8
from .alarms import Alarms
from .algorithm import Diverged
from .assemble import assemble, take_step
from .data import to_device
from .evaluation import measure, one_class_for_all, outcome
from .interruption import stopping_on_signals
from .trajectories import Trajectories

Report = Callable[[int, dict[str, float]], None]


class Interrupted(RuntimeError):
    """The run was asked to stop; a checkpoint has been written. Ends a command with exit code 130."""


class Session:
    """Everything a run holds. Build it from a recipe, then call :meth:`run`.

    Args:
        folder: run directory. why, begun: why its profile was chosen, and how it was begun, to be kept with it.
        say: receives one-line messages. report: receives metrics as they are logged.

    Raises:
        RecipeError: for options the data cannot meet. MissingData: when data or weights are absent.
    """

    def __init__(
        self,
        recipe: Recipe,
        folder: Path,
        *,
        why: str = "",
        begun: Begun | None = None,
        say: Callable[[str], None] = print,
        report: Report | None = None,
    ) -> None:
        self.recipe, self.folder, self.why, self.begun, self.say = recipe, folder, why, begun, say
        self.report = report or (lambda step, values: None)
        self.parts = parts = assemble(recipe, say)
        self.device, self.task, self.data, self.module = parts.device, recipe.task, parts.data, parts.module
        self.optimizer, self.outer_optimizer, self.schedulers = parts.optimizer, parts.outer_optimizer, parts.schedulers
        self.algorithm, self.batches, self.watch, self.averaged = (
            parts.algorithm,
            parts.batches,
            parts.watch,
            parts.averaged,
        )
        self.step, self.evaluations = 0, []  # type: ignore[var-annotated]
        estimated = recipe.estimator.name if recipe.problem.needs_estimate else None
        threshold = getattr(recipe.method, "threshold", None) if recipe.method.uses_unlabelled else None
        self.alarms = Alarms(
            recipe.problem_spec.inner.lr,
            estimated,
            recipe.estimator.dropped,
            threshold,
            rescaled=recipe.problem_spec.relative is not None,
        )
        self.seconds = 0.0
        self.trajectories: Trajectories | None = None
        self._stop = False

    # state -----------------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """All that a later process needs to go on bit for bit; randomness is a function of (seed, step)."""
        algorithm = self.algorithm
        return {
            "step": self.step,
            "model": self.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "outer_optimizer": None if self.outer_optimizer is None else self.outer_optimizer.state_dict(),
            "schedulers": [s.state_dict() for s in self.schedulers],
            "averaged": None if self.averaged is None else self.averaged.state_dict(),
            "method": algorithm.state,
            "meta": algorithm.meta,
            "inner_lr": algorithm.rate,
            "evaluations": self.evaluations,
            "warnings": self.alarms.state(),
            "seconds": self.seconds,
            "phases": algorithm.stopwatch.seconds,
            "seed": self.recipe.train.seed,
            "data": self._data_identity(),
            "threads": torch.get_num_threads(),
        }

    def _data_identity(self) -> dict[str, Any]:
        """What tells one split of one data set from another."""
        pools = {name: getattr(self.data, name) for name in ("labelled", "unlabelled", "validation", "test")}
        ids = {name: zlib.crc32(pool.ids.numpy().tobytes()) for name, pool in pools.items()}
        content = {"content": self.data.fingerprint} if self.data.fingerprint else {}
        return {
            "source": self.data.source,
            **{f"{name}_rows": len(pool) for name, pool in pools.items()},
            **ids,
            **content,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Puts a checkpoint's state back.

        Raises:
            RecipeError: when the checkpoint belongs to another model or seed.
        """
        if state["seed"] != self.recipe.train.seed:
            raise self.recipe.source.fail(("train", "seed"), f"the checkpoint was made with seed {state['seed']}")
        if state["data"] != self._data_identity():
            raise self.recipe.source.fail(
                ("task",),
                f"the checkpoint was made on {state['data']['source']}, with other content than {self.data.source} has here",
            )
        if state["threads"] != torch.get_num_threads():
            self.say(
                f"note: the run was begun on {state['threads']} threads and goes on on {torch.get_num_threads()}; sums may "
                "differ in the last bit"
            )
        try:
            self._put_back(state)
        except (
            RuntimeError,
            ValueError,
            LookupError,
            TypeError,
            AttributeError,
        ) as error:  # whatever torch makes of it
            first = (str(error).splitlines() or [type(error).__name__])[0]
            raise self.recipe.source.fail(
                ("model",), f"the checkpoint belongs to another model or optimizer: {first}"
            ) from None

    def _put_back(self, state: dict[str, Any]) -> None:
        if state["step"] > self.recipe.train.steps:
            raise ValueError(f"it is of step {state['step']}, and this run has {self.recipe.train.steps}")
        self.module.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.outer_optimizer is not None:
            self.outer_optimizer.load_state_dict(state["outer_optimizer"])
        for scheduler, saved in zip(self.schedulers, state["schedulers"], strict=True):
            scheduler.load_state_dict(saved)
        if self.averaged is not None:
            self.averaged.load_state_dict(state["averaged"])
        checkpoint.require_alike(self.algorithm.state, state["method"], "method")
        self.algorithm.state = to_device(state["method"], self.device)
        if self.algorithm.meta is not None:
            with torch.no_grad():
                for name, leaf in self.algorithm.meta.items():
                    leaf.copy_(state["meta"][name])
        self.algorithm.rate = state.get("inner_lr")
        self.step, self.evaluations, self.seconds = state["step"], state["evaluations"], state["seconds"]
        self.algorithm.stopwatch.seconds = dict(state.get("phases", {}))
        self.alarms.load_state(state.get("warnings", state))  # at the top level in checkpoints of version 0.1

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
        self.say(f"resumed from {path.name} at step {self.step} of {self.recipe.train.steps}")

    def save(self) -> Path:
        return checkpoint.save(self.folder, self.step, self.state())

    # training --------------------------------------------------------------------------------------------------------

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
                with stopping_on_signals(self.stop, lambda: self._stop, self.say):
                    self._train()
                self.save()
                result = self.result()
                export(self.folder, self.evaluated_module(), self.task)
                result = dataclasses.replace(result, weights_sha256=digest(self.folder))
                result.write(self.folder)
                return result
        except OSError as error:
            elsewhere = error.filename is not None and not Path(error.filename).is_relative_to(self.folder)
            if elsewhere or isinstance(error, FileExistsError | NotADirectoryError):
                raise
            where = error.filename or self.folder
            again = f"; mend that and go on with --resume {argument(self.folder)}" if self._checkpoints() else ""
            raise Unwritable(f"cannot write {where}: {error.strerror or error}; {self._last_good()}{again}") from None

    def _train(self) -> None:
        train, log, drawn = self.recipe.train, RunLog(self.folder, self.step, self.say), self.data.unlabelled
        if len(drawn) and self.batches.needs_unlabelled:
            self.trajectories = Trajectories(
                self.folder, self.task, self.module, drawn, train.seed, self.device, self.step, self.say
            )
        started, before = time.perf_counter(), self.seconds
        try:
            if self.step == 0 and not checkpoint.existing(self.folder):
                self.save()  # so that a run killed before its first checkpoint can be resumed as well
            while self.step < train.steps:
                self._one_step(log)
                self.seconds = before + time.perf_counter() - started
                if self.step % train.checkpoint_every == 0 or self._stop:
                    self.save()
                if self._stop:
                    raise Interrupted(f"stopped at step {self.step}; continue with --resume {argument(self.folder)}")
        except Diverged as error:
            raise self._diverged(error, log) from None
        finally:
            log.close()

    def _last_good(self, but: Path | None = None) -> str:
        good = [path for path in self._checkpoints() if path != but]
        return f"last good checkpoint: {good[-1]}" if good else "no checkpoint had been written yet"

    def _checkpoints(self) -> list[Path]:
        """For a message; none where they cannot be listed."""
        try:
            return checkpoint.existing(self.folder)
        except checkpoint.NoCheckpoint:
            return []

    def _diverged(self, error: Diverged, log: RunLog) -> Diverged:
        """Writes what is known of the step to ``diverged.json`` and says where."""
        # the weights of a checkpoint at this very step are those whose loss is not finite
        bad = checkpoint_path(self.folder, self.step) if self.step else None
        last, batch, path = self._last_good(bad), self.batches.batch(self.step), self.folder / DIVERGED
        norms = {name: float(p.detach().norm()) for name, p in self.module.named_parameters()}
        found = {
            "step": self.step, "error": str(error), "checkpoint": last, "lr": self.schedulers[0].get_last_lr()[0],
            "last_metrics": log.last, "labelled_rows": self.batches.labelled.ids[batch.labelled.index].tolist(),
            "unlabelled_rows": self.data.unlabelled.ids[batch.unlabelled.index].tolist(), "parameter_norms": norms,
        }  # fmt: skip
        write_json(path, found)
        return Diverged(f"{error}; {last}; the step's diagnostics: {path}")

    def stop(self) -> None:
        """Asks a run to end after the step under way, with a checkpoint."""
        self._stop = True

    def _one_step(self, log: RunLog) -> None:
        train, step = self.recipe.train, self.step
        measure = (step + 1) % train.log_every == 0 or step + 1 == train.steps
        rate = self.schedulers[0].get_last_lr()[0]
        found = take_step(self.parts, self.recipe, step, measure=measure, watch=self.watch if measure else None)
        self.step += 1
        if measure:
            values = {name: float(value) for name, value in found.items()} | {"lr": float(rate)}
            for warning in self.alarms.look(values, self.step == train.steps):
                self.say(warning)
            log.write(self.step, values)
            if self.trajectories is not None:
                self.trajectories.write(self.step)
            self.report(self.step, values)
        if self._evaluates(self.step):
            errors = self._evaluate()
            log.write(self.step, {k: v for k, v in errors.items() if k != "step"})
            self.report(self.step, errors)

    # evaluation ------------------------------------------------------------------------------------------------------

    def _points(self) -> list[int]:
        train = self.recipe.train
        return sorted({*range(train.eval_every, train.steps + 1, train.eval_every), train.steps})

    def _evaluates(self, step: int) -> bool:
        return step % self.recipe.train.eval_every == 0 or step == self.recipe.train.steps

    def evaluated_module(self) -> torch.nn.Module:
        """The network that is evaluated: averaged weights where the recipe asks for them."""
        return self.module if self.averaged is None else self.averaged.module

    def _evaluate(self) -> dict[str, float]:
        values: dict[str, float] = {"step": self.step}
        pools = {"validation": self.data.validation}
        if self.step in self._points()[-self.recipe.train.test_checkpoints :]:
            pools["test"] = self.data.test
        for name, pool in pools.items():
            if len(pool):
                found = measure(self.evaluated_module(), self.task, pool, self.recipe.train.eval_batch, self.device)
                values |= {f"{name}_{key}": value for key, value in found.items()}
        self.evaluations = [*self.evaluations, values]
        return values

    def result(self) -> Result:
        """The run's outcome with everything needed to repeat it."""
        recipe = self.recipe
        tested = [e["test_error"] for e in self.evaluations if "test_error" in e]
        validated = [e["validation_error"] for e in self.evaluations if "validation_error" in e]
        ended = outcome(self.evaluated_module(), self.task, self.data.test, recipe.train.eval_batch, self.device)
        doubts = one_class_for_all(ended, self.task.label_names)
        for line in doubts:
            self.say(f"warning: {line}")
        return Result(
            recipe=recipe.path,
            title=recipe.about.title,
            overrides=recipe.about.overrides,
            profile=recipe.profile,
            profile_reason=self.why,
            task=recipe.task.name,
            source=self.data.source,
            labels=len(self.data.labelled),
            unlabelled=len(self.data.unlabelled),
            test_examples=len(self.data.test),
            model=recipe.model.name,
            method=recipe.method.name,
            problem=recipe.problem.name,
            estimator=recipe.estimator.name if recipe.problem.needs_estimate else None,
            backend=recipe.problem_spec.backend,
            seed=recipe.train.seed,
            steps=self.step,
            metric=recipe.task.output.metric,
            test_last=tested[-1] if tested else None,
            test_median=statistics.median(tested) if tested else None,
            test_checkpoints=len(tested),
            validation_last=validated[-1] if validated else None,
            test_measures=self._test_measures(),
            label_names=self.task.label_names,
            data_fingerprint=self.data.fingerprint,
            imports=imported(),
            **ended,
            evaluations=self.evaluations,
            lookahead_warning=self.alarms.raised,
            zero_hypergradient_warning=self.alarms.zero,
            warnings=[
                *self.data.warnings,
                *(text.removeprefix("warning: ") for text in self.alarms.said),
                *doubts,
            ],
            training_seconds=round(self.seconds, 2),
            phase_seconds={name: round(value, 3) for name, value in self.algorithm.stopwatch.seconds.items()},
            environment=describe(self.device),
        )

    def _test_measures(self) -> dict[str, dict[str, float]]:
        """What the task measures on the test set beside its error, e.g. ``failure_rate``: last and median, as for the error."""
        found: dict[str, list[float]] = {}
        for evaluation in self.evaluations:
            for key, value in evaluation.items():
                if key.startswith("test_") and key != "test_error":
                    found.setdefault(key.removeprefix("test_"), []).append(value)
        return {name: {"last": values[-1], "median": statistics.median(values)} for name, values in found.items()}

    def weights(self) -> dict[str, Tensor]:
        """A copy of the trained weights and buffers."""
        return {name: value.clone() for name, value in self.module.state_dict().items()}

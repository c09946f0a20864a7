"""A run between two steps: its parts, how far they have come, and what of them a checkpoint keeps."""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ..engine.ambient import as_usual
from ..recipes.recipe import Recipe
from ..rundir.checkpoint import require_alike
from .alarms import Alarms
from .assemble import assemble
from .data import to_device
from .dealing import has_statistics
from .evaluation import measure, predictions
from .processes import ALONE, Processes, mean_of
from .updates import as_built


class RunState:
    """Everything a run holds, as its recipe makes it or as a checkpoint left it.

    Attributes:
        step: steps taken. evaluations: what was measured at each evaluation. seconds: spent in training.

    Raises:
        RecipeError: for options the data cannot meet. MissingData: when data or weights are absent.
    """

    @as_usual()
    def __init__(self, recipe: Recipe, say: Callable[[str], None], processes: Processes = ALONE) -> None:
        self.recipe, self.task, self.say, self.processes = recipe, recipe.task, say, processes
        self.parts = parts = assemble(recipe, say, processes=processes)
        self.device, self.data, self.module, self.batches = parts.device, parts.data, parts.module, parts.batches
        self.optimizer, self.outer_optimizer, self.schedulers = parts.optimizer, parts.outer_optimizer, parts.schedulers
        self.algorithm, self.watch, self.averaged = parts.algorithm, parts.watch, parts.averaged
        self.alarms = Alarms(
            recipe.problem_spec.inner.lr,
            recipe.estimator.name if recipe.problem.estimates else None,
            recipe.estimator.dropped,
            recipe.method.least_confidence if recipe.method.uses_unlabelled else None,
            rescaled=recipe.problem_spec.relative is not None,
            rate=recipe.problem_spec.inner.rate,
        )
        self.step, self.seconds = 0, 0.0
        self.evaluations: list[dict[str, float]] = []

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
            "inner_lr": algorithm.lookahead.rate,
            "loss_scales": {name: scale.state() for name, scale in algorithm.scales.items()},
            "evaluations": self.evaluations,
            "warnings": self.alarms.state(),
            "seconds": self.seconds,
            "phases": algorithm.stopwatch.seconds,
            "seed": self.recipe.train.seed,
            "data": self._data_identity(),
            "threads": torch.get_num_threads(),
            "processes": self.processes.size,
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

    @as_usual()
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
        self._look_at_processes(state.get("processes", 1))
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

    def _look_at_processes(self, begun: int) -> None:
        """A run goes on over another number of processes, since its batches stay the same, unless that changes its losses."""
        size = self.processes.size
        if begun == size:
            return
        if has_statistics(self.module) and not self.recipe.train.sync_batchnorm:
            raise self.recipe.source.fail(
                ("train", "sync_batchnorm"),
                f"the run was begun with {begun} process{'es' * (begun > 1)}, and BatchNorm takes the statistics of each "
                f"one's own rows; go on with {begun}",
            )
        self.say(
            f"note: the run was begun with {begun} process{'es' * (begun > 1)} and goes on with {size}; its batches are the "
            "same, sums may differ in the last bit, and noise inside the network is drawn by each process for its rows"
        )

    def _put_back(self, state: dict[str, Any]) -> None:
        if state["step"] > self.recipe.train.steps:
            raise ValueError(f"it is of step {state['step']}, and this run has {self.recipe.train.steps}")
        self.module.load_state_dict(state["model"])
        self.optimizer.load_state_dict(as_built(self.optimizer, state["optimizer"]))
        if self.outer_optimizer is not None:
            self.outer_optimizer.load_state_dict(as_built(self.outer_optimizer, state["outer_optimizer"]))
        for scheduler, saved in zip(self.schedulers, state["schedulers"], strict=True):
            scheduler.load_state_dict(saved)
        if self.averaged is not None:
            self.averaged.load_state_dict(state["averaged"])
        require_alike(self.algorithm.state, state["method"], "method")
        self.algorithm.state = to_device(state["method"], self.device)
        if self.algorithm.meta is not None:
            with torch.no_grad():
                for name, leaf in self.algorithm.meta.items():
                    leaf.copy_(state["meta"][name])
        self.algorithm.lookahead.rate = state.get("inner_lr")
        for name, scale in self.algorithm.scales.items():
            scale.load_state(state["loss_scales"][name])
        own = state.get("buffers") or []
        if len(own) == self.processes.size:  # else they are the mean, which the modules' states hold
            self._put_buffers(own[self.processes.rank])
        self.step, self.evaluations, self.seconds = state["step"], state["evaluations"], state["seconds"]
        self.algorithm.stopwatch.seconds = dict(state.get("phases", {}))
        self.alarms.load_state(state.get("warnings", state))  # at the top level in checkpoints of version 0.1

    def _buffers(self) -> dict[str, Tensor]:
        parts = {"model": self.module, "averaged": self.averaged}
        present = {place: module for place, module in parts.items() if module is not None}
        return {f"{place}.{name}": b for place, module in present.items() for name, b in module.named_buffers()}

    def _put_buffers(self, values: dict[str, Tensor]) -> None:
        here = self._buffers()
        require_alike({name: here[name] for name in values}, values, "buffers")
        with torch.no_grad():
            for name, value in values.items():
                here[name].copy_(value)

    def average(self) -> list[dict[str, Tensor]]:
        """Makes the mean of what processes have unlike in buffers, such as running statistics, and returns each one's own."""
        own = self.processes.unlike(self._buffers())
        if own:
            self._put_buffers(mean_of(own))
        return own

    @contextlib.contextmanager
    def averaging(self) -> Iterator[list[dict[str, Tensor]]]:
        """As :meth:`average`, for a block: what is evaluated and saved is the mean, and training goes on from one's own."""
        own = self.average()
        try:
            yield own
        finally:
            if own:
                self._put_buffers(own[self.processes.rank])

    def is_evaluated(self) -> bool:
        """Whether a run is evaluated after the steps it has taken."""
        return self.step % self.recipe.train.eval_every == 0 or self.step == self.recipe.train.steps

    def evaluated_module(self) -> nn.Module:
        """The network that is evaluated: averaged weights where the recipe asks for them, with what a problem adds to it."""
        return self.algorithm.lookahead.evaluated(self.module if self.averaged is None else self.averaged.module)

    def evaluate(self) -> dict[str, float]:
        """Errors on the validation pool and, near the end, on the test pool; kept among the evaluations."""
        train, values = self.recipe.train, dict[str, float](step=self.step)
        points = sorted({*range(train.eval_every, train.steps + 1, train.eval_every), train.steps})
        pools = {"validation": self.data.validation}
        if self.step in points[-train.test_checkpoints :]:
            pools["test"] = self.data.test
        for name, pool in pools.items():
            if len(pool):
                found = measure(self.evaluated_module(), self.task, pool, train.eval_batch, self.device)
                values |= {f"{name}_{key}": value for key, value in found.items()}
        self.evaluations = [*self.evaluations, values]
        return values

    def raw(self, examples: Any) -> Tensor:
        """The evaluated network's outputs ``[n, outputs]`` for raw examples or a pool of them."""
        return predictions(self.evaluated_module(), self.task, examples, self.recipe.train.eval_batch, self.device)

    def weights(self) -> dict[str, Tensor]:
        """A copy of the trained weights and buffers."""
        return {name: value.clone() for name, value in self.module.state_dict().items()}

"""Batches of a training step: examples, views and device, all decided by (seed, step)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from ..batches import Batch, Labelled, Unlabelled, ViewKind
from ..batches.motion import LabelMotion, between
from ..engine.ambient import as_usual
from ..engine.noise import derive_seed, fixed_rng
from ..engine.pytree import Tree, tree_map
from ..methods.base import Method
from ..streams import Stream
from ..tasks.base import Pool, Task
from .drawn import BegunView, Drawn, passed_on
from .processes import ALONE, Processes
from .sampling import FoldSampler, StepSampler


def to_device(tree: Tree, device: torch.device, *, non_blocking: bool = False) -> Tree:
    return tree_map(lambda leaf: leaf.to(device, non_blocking=non_blocking) if isinstance(leaf, Tensor) else leaf, tree)


@dataclass(frozen=True)
class BatchSizes:
    labelled: int
    unlabelled: int
    holdout: int


class BatchSource:
    """Draws the three batches of Algorithm 1, line 3: labelled, unlabelled and hold-out.

    Drawing them is work of the CPU alone, a function of (seed, step) that any process may do; carrying them to the device is
    apart from it.

    Args:
        holdout: the pool hold-out batches come from: the labelled one (``joint``) or one of its own (``separate``).
            For episodes it is the labelled pool, and a step's hold-out batch holds the same rows.
        holdout_view: the view of hold-out examples. needs_unlabelled: False leaves the unlabelled views out.
        folds: positions in the labelled pool, of which each step holds out the next one and trains on the others.
        views: where views are made: as they are drawn (``host``), or on the device, of examples that are carried there.
        processes: that each get their rows of every batch; views are drawn for all rows, so that a row has the view that it has
            in one process.
    """

    def __init__(
        self,
        task: Task,
        method: Method,
        labelled: Pool,
        unlabelled: Pool,
        holdout: Pool,
        sizes: BatchSizes,
        holdout_view: ViewKind,
        steps: int,
        seed: int,
        device: torch.device,
        needs_unlabelled: bool = True,
        folds: Sequence[Tensor] = (),
        views: Literal["host", "device"] = "host",
        processes: Processes = ALONE,
    ) -> None:
        self.processes = processes
        self.task, self.method, self.device, self.seed, self.steps = task, method, device, seed, steps
        self.labelled, self.unlabelled, self.holdout_pool = labelled, unlabelled, holdout
        self.holdout_view, self.needs_unlabelled, self.views = holdout_view, needs_unlabelled, views
        self._labelled: Callable[[int], Tensor] = StepSampler(len(labelled), sizes.labelled, seed, Stream.LABELLED)
        self._unlabelled = StepSampler(len(unlabelled), sizes.unlabelled, seed, Stream.UNLABELLED)
        self._holdout: Callable[[int], Tensor] = (
            self._labelled if task.episodes else StepSampler(len(holdout), sizes.holdout, seed, Stream.HOLDOUT)
        )
        if folds:
            others = [torch.cat([*folds[:place], *folds[place + 1 :]]) for place in range(len(folds))]
            self._labelled = FoldSampler(others, sizes.labelled, seed, Stream.LABELLED)
            self._holdout = FoldSampler(folds, sizes.holdout, seed, Stream.HOLDOUT)

    def _view(self, raw: Any, kind: ViewKind, step: int, stream: Stream, *part: int) -> tuple[Tree, LabelMotion | None]:
        rng = torch.Generator(device="cpu").manual_seed(derive_seed(self.seed, stream, step, *part))
        if self.views == "device":
            return BegunView(self.task.begun_view(raw, kind, rng), kind, rng.get_state()), None
        inputs, motion = self.task.moved_view(raw, kind, rng)
        inputs = self.processes.rows(inputs)
        if motion is not None:
            motion = LabelMotion(*self.processes.rows((motion.matrix, motion.offset)))
        return inputs, motion

    def _labelled_batch(self, pool: Pool, index: Tensor, kind: ViewKind, step: int, stream: Stream) -> Labelled:
        assert pool.targets is not None
        inputs, motion = self._view(pool.take(index), kind, step, stream)
        index = self.processes.rows(index)
        targets = pool.targets[index]
        return Labelled(inputs, targets if motion is None else motion.apply(targets), index)

    def _batch(self, step: int) -> Batch:
        method = self.method
        labelled = self._labelled_batch(
            self.labelled, self._labelled(step), method.labelled_view, step, Stream.LABELLED_VIEW
        )
        index = self._unlabelled(step)
        progress = step / self.steps
        if not self.needs_unlabelled:
            return Batch(labelled, Unlabelled(None, None, self.processes.rows(index)), progress, step)
        raw, index = self.unlabelled.take(index), self.processes.rows(index)
        truth = None if self.unlabelled.targets is None else self.unlabelled.targets[index]
        weak, from_weak = self._view(raw, method.weak, step, Stream.WEAK_VIEW)
        strong, to_strong = weak, from_weak
        if method.views > 1:
            strong, to_strong = self._view(raw, method.strong, step, Stream.STRONG_VIEW)
        more = tuple(self._view(raw, method.strong, step, Stream.MORE_VIEWS, i)[0] for i in range(method.views - 2))
        if truth is not None and to_strong is not None:
            truth = to_strong.apply(truth)
        unlabelled = Unlabelled(weak, strong, index, truth, between(from_weak, to_strong), more)
        return Batch(labelled, unlabelled, progress, step)

    def _held(self, step: int) -> Labelled:
        return self._labelled_batch(
            self.holdout_pool, self._holdout(step), self.holdout_view, step, Stream.HOLDOUT_VIEW
        )

    @as_usual()
    def drawn(self, step: int, holdout: bool = True) -> Drawn:
        """The batches of ``step`` before they are carried to the device.

        Args:
            holdout: whether the step has a hold-out batch.
        """
        with fixed_rng(derive_seed(self.seed, Stream.STEP, step)):
            return Drawn(self._batch(step), self._held(step) if holdout else None)

    def carried(self, drawn: Drawn) -> Drawn:
        """The same on the device, its views finished. What a worker process has made goes there asynchronously."""

        there: dict[int, Tree] = {}  # the weak and the strong view begin with the same images

        def carry(inputs: Tree) -> Tree:
            if not isinstance(inputs, BegunView):
                return to_device(inputs, self.device, non_blocking=drawn.pinned)
            begun = inputs.begun
            if id(begun) not in there:
                there[id(begun)] = to_device(begun, self.device, non_blocking=drawn.pinned)
            rng = torch.Generator(device="cpu")
            rng.set_state(inputs.state)
            return self.processes.rows(self.task.finished_view(there[id(begun)], inputs.kind, rng))

        return passed_on(drawn, carry, lambda one: one.to(self.device, non_blocking=drawn.pinned))

    def batch(self, step: int) -> Batch:
        """Labelled and unlabelled examples of ``step``, in the method's views."""
        found: Batch = self.carried(self.drawn(step, holdout=False)).batch
        return found

    def holdout(self, step: int) -> Labelled:
        """Hold-out examples of ``step``."""
        with fixed_rng(derive_seed(self.seed, Stream.STEP, step)):
            held = self._held(step)
        found = self.carried(Drawn(None, held)).holdout
        assert found is not None
        return found

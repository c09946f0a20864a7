"""Batches of a training step: examples, views and device, all decided by (seed, step)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..batches import Batch, Labelled, Unlabelled, ViewKind
from ..batches.motion import LabelMotion, between
from ..engine.noise import derive_seed
from ..engine.pytree import Tree, tree_map
from ..methods.base import Method
from ..streams import Stream
from ..tasks.base import Pool, Task
from .processes import ALONE, Processes
from .sampling import FoldSampler, StepSampler


def to_device(tree: Tree, device: torch.device) -> Tree:
    return tree_map(lambda leaf: leaf.to(device) if isinstance(leaf, Tensor) else leaf, tree)


@dataclass(frozen=True)
class BatchSizes:
    labelled: int
    unlabelled: int
    holdout: int


class BatchSource:
    """Draws the three batches of Algorithm 1, line 3: labelled, unlabelled and hold-out.

    Args:
        holdout: the pool hold-out batches come from: the labelled one (``joint``) or one of its own (``separate``).
            For episodes it is the labelled pool, and a step's hold-out batch holds the same rows.
        holdout_view: the view of hold-out examples. needs_unlabelled: False leaves the unlabelled views out.
        folds: positions in the labelled pool, of which each step holds out the next one and trains on the others.
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
        processes: Processes = ALONE,
    ) -> None:
        self.processes = processes
        self.task, self.method, self.device, self.seed, self.steps = task, method, device, seed, steps
        self.labelled, self.unlabelled, self.holdout_pool = labelled, unlabelled, holdout
        self.holdout_view, self.needs_unlabelled = holdout_view, needs_unlabelled
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
        inputs, motion = self.task.moved_view(raw, kind, rng)
        inputs = self.processes.rows(inputs)
        if motion is not None:
            motion = LabelMotion(*self.processes.rows((motion.matrix, motion.offset))).to(self.device)
        return to_device(inputs, self.device), motion

    def _labelled_batch(self, pool: Pool, index: Tensor, kind: ViewKind, step: int, stream: Stream) -> Labelled:
        assert pool.targets is not None
        inputs, motion = self._view(pool.take(index), kind, step, stream)
        index = self.processes.rows(index)
        targets = pool.targets[index].to(self.device)
        return Labelled(inputs, targets if motion is None else motion.apply(targets), index)

    def batch(self, step: int) -> Batch:
        """Labelled and unlabelled examples of ``step``, in the method's views."""
        method = self.method
        labelled = self._labelled_batch(
            self.labelled, self._labelled(step), method.labelled_view, step, Stream.LABELLED_VIEW
        )
        index = self._unlabelled(step)
        progress = step / self.steps
        if not self.needs_unlabelled:
            return Batch(labelled, Unlabelled(None, None, self.processes.rows(index)), progress, step)
        raw, index = self.unlabelled.take(index), self.processes.rows(index)
        truth = None if self.unlabelled.targets is None else self.unlabelled.targets[index].to(self.device)
        weak, from_weak = self._view(raw, method.weak, step, Stream.WEAK_VIEW)
        strong, to_strong = weak, from_weak
        if method.views > 1:
            strong, to_strong = self._view(raw, method.strong, step, Stream.STRONG_VIEW)
        more = tuple(self._view(raw, method.strong, step, Stream.MORE_VIEWS, i)[0] for i in range(method.views - 2))
        if truth is not None and to_strong is not None:
            truth = to_strong.apply(truth)
        unlabelled = Unlabelled(weak, strong, index, truth, between(from_weak, to_strong), more)
        return Batch(labelled, unlabelled, progress, step)

    def holdout(self, step: int) -> Labelled:
        """Hold-out examples of ``step``."""
        return self._labelled_batch(
            self.holdout_pool, self._holdout(step), self.holdout_view, step, Stream.HOLDOUT_VIEW
        )

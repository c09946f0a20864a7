"""The batches of a step between being drawn and being on the device: what a process hands over, and how it is passed on."""

from __future__ import annotations

import dataclasses
import pickle
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from ..batches import Batch, Labelled, ViewKind
from ..batches.motion import LabelMotion
from ..engine.pytree import Tree, leaves_of, tree_map
from ..tasks.base import TaskError

PLAIN = (int, float, complex, str, bytes, np.ndarray, np.generic, type(None))


@dataclass(frozen=True)
class BegunView:
    """A view of which the host has done its part (:meth:`~..tasks.base.Task.begun_view`) and the device not yet.

    Attributes:
        begun: what the task has begun. kind: of the view. state: of the generator that it is to go on with.
    """

    begun: Tree
    kind: ViewKind
    state: Tensor


@dataclass(frozen=True)
class Drawn:
    """A step's batches. ``batch`` or ``holdout`` is None where it was not asked for; ``pinned``: in page-locked memory."""

    batch: Any
    holdout: Labelled | None
    pinned: bool = False

    def pin_memory(self) -> Drawn:
        """A copy in page-locked memory, from which an accelerator copies while the CPU goes on. Called by torch's loader."""

        def pin(inputs: Tree) -> Tree:
            if isinstance(inputs, BegunView):
                return dataclasses.replace(inputs, begun=pin(inputs.begun))
            return tree_map(lambda leaf: leaf.pin_memory() if isinstance(leaf, Tensor) else leaf, inputs)

        return dataclasses.replace(passed_on(self, pin, Tensor.pin_memory), pinned=True)


def passed_on(drawn: Drawn, views: Callable[[Tree], Tree], tensor: Callable[[Tensor], Tensor]) -> Drawn:
    """A step's batches with a function of each view, and of each tensor of labels. Positions in pools stay as they are, and
    one view that stands in two places stays one."""
    known: dict[int, Tree] = {}

    def view(inputs: Tree) -> Tree:
        if id(inputs) not in known:
            known[id(inputs)] = views(inputs)
        return known[id(inputs)]

    def motion(one: LabelMotion | None) -> LabelMotion | None:
        return None if one is None else LabelMotion(tensor(one.matrix), tensor(one.offset))

    def labelled(one: Labelled) -> Labelled:
        return dataclasses.replace(one, inputs=view(one.inputs), targets=tensor(one.targets))

    batch: Batch | None = drawn.batch
    if batch is not None:
        rest = batch.unlabelled
        unlabelled = dataclasses.replace(
            rest, weak=view(rest.weak), strong=view(rest.strong), truth=None if rest.truth is None else tensor(rest.truth),
            motion=motion(rest.motion), more=tuple(view(one) for one in rest.more),
        )  # fmt: skip
        batch = dataclasses.replace(batch, labelled=labelled(batch.labelled), unlabelled=unlabelled)
    holdout = None if drawn.holdout is None else labelled(drawn.holdout)
    return dataclasses.replace(drawn, batch=batch, holdout=holdout)


def require_passable(drawn: Drawn) -> None:
    """Raises:
    TaskError: for a view that no other process can be given, on which torch's queue would only hang."""
    for view in _views(drawn):
        for leaf in leaves_of(view.begun if isinstance(view, BegunView) else view):
            reason = _unpassable(leaf)
            if reason:
                raise TaskError(f"a view holds {reason}, which no worker process can hand over; set train.workers to 0")


def _views(drawn: Drawn) -> Iterator[Tree]:
    if drawn.batch is not None:
        rest = drawn.batch.unlabelled
        yield from (drawn.batch.labelled.inputs, rest.weak, rest.strong, *rest.more)
    if drawn.holdout is not None:
        yield drawn.holdout.inputs


def _unpassable(leaf: Any) -> str:
    """What is in the way of handing a leaf over; nothing for most."""
    if isinstance(leaf, Tensor):
        if leaf.device.type != "cpu":
            return f"a tensor on {leaf.device.type}"
        return "a tensor with a graph" if leaf.requires_grad and not leaf.is_leaf else ""
    if isinstance(leaf, PLAIN):
        return ""
    try:
        pickle.dumps(leaf)
    except Exception:  # of whatever cannot be pickled
        return f"a {type(leaf).__name__}"
    return ""

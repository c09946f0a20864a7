"""Evaluations that repeat one that was made: they leave no trace in any module, and are held against the first.

A hypergradient evaluates the same loss at the same point several times: to rebuild a step, to take a product. Its noise is
replayed by seed, but numpy's generator, one's own generators and a module's mode are not torch's to replay. What is cheap and
telling is compared: the value of the loss, and the mode (train, eval) of every module it called.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Hashable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from ..errors import UserError
from .pytree import Tree, tensors

_MISSING: Any = object()


class NotRepeatable(UserError, ValueError):
    """A loss that gave another value when evaluated again at the same point, so that its derivative is another function's."""


LEAVE_ALONE = "and change nothing between step() and value()"
GIVE_THE_SAME = "and give a callback that does the same each time, or use memory 'store'"
GIVE_THE_SAME_ALWAYS = "and give a callback that does the same each time, or use 'exact' with memory 'store'"


def require_same_end(found: Tree, reached: Tree, before: Tree = None, way: str = LEAVE_ALONE) -> None:
    """Holds the end of steps that are taken again against where they led.

    Args:
        before: where the steps began, if that is at hand; then the way they went counts, however short it is. On an accelerator,
            where sums are not the same each time and Adam makes much of that at zero gradients, another end is one in which a
            tenth of all entries has moved otherwise by a tenth.
        way: what to do instead.

    Raises:
        NotRepeatable: when they end elsewhere by more than rounding.
    """
    begun, rough = tensors(before), before is not None
    counts: dict[bool, list[Tensor]] = {True: [], False: []}  # of entries that differ, on the CPU and elsewhere
    total = 0
    for place, (again, first) in enumerate(zip(tensors(found), tensors(reached), strict=True)):
        if not first.numel() or (first.is_cpu and torch.equal(again, first)):
            continue
        start = begun[place] if place < len(begun) and begun[place].shape == first.shape else None
        counts[first.is_cpu].append(_other_entries(again.detach(), first.detach(), start, rough and not first.is_cpu))
        total += 0 if first.is_cpu else first.numel()
    allowed = {True: 0.0, False: total / 10 if rough else 0.0}
    if any(some and float(_on_the_host(some).sum()) > allowed[where] for where, some in counts.items()):
        raise NotRepeatable(
            "the steps led elsewhere when they were taken again: the inner loss or the rule (a gradient_callback, a schedule) "
            "draws noise from numpy, random or a generator of its own, or something that they use was changed; draw noise from "
            f"torch's global generator, {way}"
        )


def _other_entries(again: Tensor, first: Tensor, start: Tensor | None, rough: bool) -> Tensor:
    eps = torch.finfo(first.dtype).eps
    moved = first if start is None else first - start.detach()
    tolerance = (0.1 if rough else eps**0.5) * moved.abs().amax() + 8 * eps * first.abs().amax()
    same = ((again - first).abs() <= tolerance) | (again == first) | (again.isnan() & first.isnan())
    return (~same).sum()


def _on_the_host(values: list[Tensor]) -> Tensor:
    """Scalars as one float64 vector on the CPU, in one transfer where all are of one device."""
    one = len({value.device for value in values}) == 1
    return torch.cat([(value if one else value.cpu()).reshape(1) for value in values]).cpu().double()


class _Here(threading.local):
    """What the evaluation that this thread is in is part of."""

    def __init__(self) -> None:
        self.repeating: list[list[nn.Module]] = []
        self.modes: list[tuple[bool, ...]] | None = None
        self.kept: dict[tuple[int, str], tuple[nn.Module, str, Any]] | None = None


_here = _Here()


@contextlib.contextmanager
def rebuilding() -> Iterator[list[nn.Module]]:
    """Passes in this block repeat one that was already made, so they carry no statistics into any module.

    Yields a list of the modules that held back an update.
    """
    held: list[nn.Module] = []
    _here.repeating.append(held)
    try:
        yield held
    finally:
        _here.repeating.pop()


def holds_back(module: nn.Module) -> bool:
    """Whether a pass of the module that would update its statistics must not, since it repeats one."""
    if _here.repeating:
        _here.repeating[-1].append(module)
    return bool(_here.repeating)


def saw(modes: tuple[bool, ...]) -> None:
    """Tells the evaluation that is running in which mode a module's parts were."""
    if _here.modes is not None:
        _here.modes.append(modes)


def set_attribute(part: nn.Module, name: str, value: Any) -> None:
    """Sets what a forward pass has set; :func:`attributes_restored` puts it back."""
    if _here.kept is not None:
        _here.kept.setdefault((id(part), name), (part, name, vars(part).get(name, _MISSING)))
    vars(part)[name] = value


@contextlib.contextmanager
def attributes_restored() -> Iterator[None]:
    """Attributes that forward passes in this block set on modules are as before when it ends."""
    before, _here.kept = _here.kept, {}
    try:
        yield
    finally:
        for part, name, value in _here.kept.values():
            if value is _MISSING:
                vars(part).pop(name, None)
            else:
                vars(part)[name] = value
        _here.kept = before


class Evaluation:
    """The block in which a loss is evaluated; see :meth:`Ledger.evaluation`."""

    __slots__ = ("_again", "_key", "_ledger", "_modes", "_outer")

    def __init__(self, ledger: Ledger, key: tuple[str, int]) -> None:
        self._ledger, self._key = ledger, key

    def __enter__(self) -> None:
        ledger, key = self._ledger, self._key
        self._again = key in ledger.seen
        if not _here.repeating:
            ledger.seen.add(key)
        self._outer = _here.modes
        self._modes: list[tuple[bool, ...]] = []
        _here.modes = self._modes
        if self._again:
            _here.repeating.append([])
        if ledger.watch is not None:
            ledger.watch.__enter__()

    def __exit__(self, *raised: Any) -> None:
        ledger, modes = self._ledger, self._modes
        try:
            if ledger.watch is not None:
                ledger.watch.__exit__(*raised)
        finally:
            if self._again:
                _here.repeating.pop()
            _here.modes = self._outer
        if raised[0] is not None:
            return
        first = ledger.modes.setdefault(self._key, modes)
        if first and modes and first != modes:  # a compiled program tells nothing of its modules
            raise NotRepeatable(
                f"the {self._key[0]} loss was evaluated again with a module in another mode (train, eval) than the first time, "
                "so it is another function; set modes before the hypergradient is taken and change none inside a loss"
            )


class Ledger:
    """What the evaluations of one bilevel problem were like the first time, and the later ones to be held against them."""

    def __init__(self) -> None:
        self.seen: set[Hashable] = set()
        self.values: dict[Hashable, Tensor] = {}
        self.modes: dict[Hashable, list[tuple[bool, ...]]] = {}
        self.pairs: list[tuple[str, Tensor, Tensor]] = []
        self.checked: set[int] = set()  # steps whose operators are known to have right second derivatives
        self.watch: contextlib.AbstractContextManager[Any] | None = None  # around every evaluation, where one is set
        self.reverse_only: str | None = None  # the operator for which products are taken by reverse over reverse

    def evaluation(self, which: str, t: int) -> Evaluation:
        """An evaluation of step ``t``'s loss: all but the first leave statistics alone; all see modules in one mode.

        Raises:
            NotRepeatable: when a module's mode is another than the first time.
        """
        return Evaluation(self, (which, t))

    def note(self, which: str, t: int, value: Tensor, point: Hashable) -> None:
        """Keeps the value at a point, or holds it against the one that was there."""
        value = value.detach()
        if forward_ad._current_level >= 0:
            value = forward_ad.unpack_dual(value).primal
        key = (which, t, point)
        if key in self.values:
            self.pairs.append((which, self.values[key], value))
        else:
            self.values[key] = value

    def verify(self) -> None:
        """Compares all values gathered so far, in one go: on an accelerator each comparison would wait for it.

        Raises:
            NotRepeatable: when one differs by more than rounding.
        """
        pairs, self.pairs = self.pairs, []
        if not pairs:
            return
        first, again = _on_the_host([a for _, a, _ in pairs]), _on_the_host([b for _, _, b in pairs])
        eps = torch.tensor([torch.finfo(a.dtype).eps for _, a, _ in pairs], dtype=torch.float64, device="cpu")
        same = torch.isclose(again, first, rtol=0.0, atol=0.0, equal_nan=True)
        near = (again - first).abs() <= eps.sqrt() * torch.maximum(again.abs(), first.abs()) + eps
        wrong = (~(same | near)).nonzero().flatten().tolist()
        if wrong:
            which, a, b = pairs[wrong[0]]
            raise NotRepeatable(
                f"the {which} loss gave {float(a):.6g}, and {float(b):.6g} when it was evaluated again at the same "
                "point: it draws noise from numpy, random or a generator of its own, or changes a module or tensor; draw "
                "noise from torch's global generator, which is replayed, or draw it beforehand and pass it in the batch"
            )

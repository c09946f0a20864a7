"""Losses whose rows are dealt out over processes, so that each has the joined batch's loss and hypergradient.

With batch B_r on process r, ``L(theta, c) = sum_r w loss_r(theta, c_r, B_r)``, w = 1/N for means over rows. Everything outside
the loss (parameters, coupling, optimiser state, the estimator's own vectors) is the same on every process; inside it a process
has its own rows. What lies between are the two operators of :mod:`.across_ranks`, so that every estimator, rule and memory
policy works as it is, with one message for each gradient, and one of a few numbers before each evaluation (:class:`Said`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from .across_ranks import OtherProgram, Ranks, collective, copy_to_ranks, ranks_of, reduce_from_ranks
from .ambient import CannotDifferentiate
from .compiled import Compiled
from .functional import FunctionalModel
from .gathering import ENDS, STARTS, ShardedParams, require_same
from .losses import Factored, Loss, Split, StructuredLoss
from .own_part import within
from .pytree import Tree, filled, leaves_of, tensors, tree_map, with_tensors
from .registry import describe_choices
from .sharded import Shards, require_by_name, require_rows_of, require_same_ranks

Part = Literal["whole", "rows"]
Coupling = Part | dict[str, Part]
Reduction = Literal["mean", "sum"]

MOVED_APART = (
    "the parameters differ between processes; begin with the same seed or weights on every process, and move them alike"
)
OTHER_COUPLING = "the coupling differs between processes; it is the whole one, of the joined batch, on every process"
UNEVEN = (
    "the inner batches' rows differ between processes; deal out as many to each, leave smaller batches out (drop_last=True), or "
    "weigh the rows yourself with data_parallel(loss, reduction='sum')"
)
BY_NAME = "say what goes by row, coupling={'labels': 'rows', 'bias': 'whole'}"


@dataclass
class Uses:
    """How often a loss was used: in calls of an estimator that was handed it, in evaluations of its members."""

    calls: int = 0
    evaluations: int = 0


def _is_due(count: int) -> bool:
    """At the first use, the second, the fourth, the eighth and so on."""
    return count & (count - 1) == 0


class Said(NamedTuple):
    """What a process tells the others before it evaluates a member of a loss.

    Attributes:
        rows: of its batch; -1: there are none. unlike: rows of the coupling that it would be given, where its batch has none of
            that number; else -1. params, coupling: checksums, where they are due; else 0.
    """

    rows: int
    unlike: int
    params: int
    coupling: int


@dataclass(frozen=True)
class Joined:
    """How the processes' own losses become one: what they are given, what leaves them.

    Attributes:
        coupling: whether a process's loss has the coupling ``whole``, or its own ``rows`` of it, or which of these for each of
            its keys. reduction: of the losses.
        synchronised: BatchNorm's statistics are those of the joined batch. shards: of the parameters; None: all have all of them.
        watched: the loss's members are a :class:`Member` each, which deals out the coupling and compares the processes.
    """

    ranks: Ranks
    coupling: Coupling = "whole"
    reduction: Reduction = "mean"
    synchronised: bool = False
    shards: Shards | None = None
    watched: bool = False
    uses: Uses = field(default_factory=Uses, compare=False, repr=False)

    @property
    def weight(self) -> float:
        """The factor of a process's own loss."""
        return 1.0 / self.ranks.size if self.reduction == "mean" else 1.0

    @property
    def even(self) -> bool:
        """Whether every process's batch has to have as many rows."""
        parts = self.coupling.values() if isinstance(self.coupling, dict) else [self.coupling]
        return self.reduction == "mean" or self.synchronised or "rows" in parts

    def enter(self, theta: Tree, c: Tree) -> tuple[Tree, Tree]:
        """Parameters and coupling as a process's own loss is given them, all through one message's operator."""
        require_rows_of(theta)
        held: dict[str, Any] = {}
        if self.shards is not None:
            held = self.shards.entered(require_by_name(theta))
            theta = {name: leaf for name, leaf in theta.items() if name not in held}
        own = copy_to_ranks(self.ranks, tensors((theta, c)))
        count = len(tensors(theta))
        theta, c = with_tensors(theta, own[:count]), with_tensors(c, own[count:])
        whole = c if self.watched else self.rows_of(c)
        return ShardedParams({**theta, **held}) if self.shards is not None else theta, whole

    def rows_of(self, c: Tree) -> Tree:
        """Of a coupling what a process's own loss is given.

        Raises:
            OtherProgram: where what goes by row cannot have a row for each row of one joined batch.
        """
        if isinstance(self.coupling, dict) and c is not None:
            unknown = [name for name in self.coupling if name not in c]
            if unknown:
                raise OtherProgram(f"the coupling has no '{unknown[0]}'; {describe_choices(unknown[0], list(c))}")
            return {
                name: self._mine(value) if self.coupling.get(name) == "rows" else value for name, value in c.items()
            }
        return self._mine(c) if self.coupling == "rows" else c

    def _mine(self, tree: Tree) -> Tree:
        lengths = sorted(set(_sizes(tree)))
        if len(lengths) > 1:
            raise OtherProgram(
                f"the coupling is dealt out by row and has tensors of {' and of '.join(map(str, lengths))} rows, which are not "
                f"those of one batch; {BY_NAME}"
            )

        def mine(leaf: Any) -> Any:
            return leaf[self.ranks.rows(len(leaf))] if isinstance(leaf, Tensor) and leaf.ndim else leaf

        return tree_map(mine, tree)

    def _unlike(self, c: Tree, batch: Any) -> int:
        """Rows of a coupling that was dealt out, where the batch has tensors and none of that length; else -1."""
        kinds = self.coupling
        dealt = [value for name, value in c.items() if kinds.get(name) == "rows"] if isinstance(kinds, dict) else c
        own = set(_sizes(batch))
        return next((length for length in _sizes(dealt) if length not in own), -1) if own and kinds != "whole" else -1

    def compare(self, theta: Tree, c: Tree, dealt: Tree, batch: Any) -> None:
        """Before an evaluation: that each process's batch has as many rows, and what goes by row has them too.

        Raises:
            OtherProgram: on every process alike, naming what differs.
        """
        self.uses.evaluations += 1
        due = _is_due(self.uses.evaluations) and not self.uses.calls
        due = due and torch._C._functorch.peek_interpreter_stack() is None
        if isinstance(theta, ShardedParams):
            theta = [leaf for leaf in theta.held.values() if isinstance(leaf, Tensor)]
        sizes, given = _sizes(batch), [leaf for leaf in leaves_of((theta, c, batch)) if isinstance(leaf, Tensor)]
        mine = Said(
            sizes[0] if sizes else -1,
            -1 if dealt is None else self._unlike(dealt, batch),
            _checksum(theta) if due else 0,
            _checksum(c) if due else 0,
        )
        device = given[0].device if given else torch.device("cpu")
        every = [Said(*one) for one in require_same(self.ranks, STARTS, device, mine)]
        rows = [one.rows for one in every]
        if self.even and len(set(rows)) > 1:
            counts = ", ".join("none" if count < 0 else str(count) for count in rows)
            other = ", or weigh the rows yourself with data_parallel(loss, reduction='sum')"
            raise OtherProgram(
                f"the rows of a batch differ between processes ({counts}), so that they would not count alike; leave the smaller "
                f"batch out (drop_last=True){other if self.reduction == 'mean' else ''}"
            )
        if len({one.params for one in every}) > 1:
            raise OtherProgram(MOVED_APART)
        if len({one.coupling for one in every}) > 1:
            raise OtherProgram(OTHER_COUPLING)
        unlike = max(one.unlike for one in every)
        if unlike >= 0:
            raise OtherProgram(
                f"the coupling is dealt out by row, {unlike} for each process, and the batch has no tensor of as many rows; "
                f"{BY_NAME}, or 'whole' for all of it"
            )

    def leave(self, value: Tensor) -> Tensor:
        """The joined loss, from this process's own."""
        if self.shards is not None:
            require_same(self.ranks, ENDS, value.device)
        return reduce_from_ranks(self.ranks, [value if self.weight == 1.0 else value * self.weight])[0]

    def within(self) -> contextlib.AbstractContextManager[None]:
        """The surroundings of a process's own evaluation."""
        return within(self.ranks, self.synchronised)

    def agreed(self, seed: int) -> int:
        """The first process's seed, in the place of each one's own."""
        found = [seed]
        source = dist.get_process_group_ranks(self.ranks.group or dist.group.WORLD)[0]
        collective(lambda: dist.broadcast_object_list(found, src=source, group=self.ranks.group))
        return found[0]

    def require_alike(self, theta: Tree, c: Tree, inner: Any, outer: Any, outer_joined: bool) -> None:
        """At calls 1, 2, 4, 8, ... of an estimator: that what has to be the same on all processes is.

        Raises:
            OtherProgram: naming what differs.
        """
        require_rows_of(theta)
        self.uses.calls += 1
        if not _is_due(self.uses.calls):
            return
        mine: dict[str, int | list[int]] = {OTHER_COUPLING: _checksum(c)}
        if self.even:
            mine[UNEVEN] = _sizes(inner)
        if self.shards is None:
            mine[MOVED_APART] = _checksum(theta)
        if not outer_joined:
            way = "join its loss, data_parallel(outer_loss), or pass the same batch"
            mine[f"the outer batch differs between processes; {way}"] = _checksum(outer)
        every: list[Any] = [None] * self.ranks.size
        collective(lambda: dist.all_gather_object(every, mine, group=self.ranks.group))
        for sentence in mine:
            if any(one.get(sentence) != every[0].get(sentence) for one in every):
                raise OtherProgram(sentence)

    def gathered(self, tree: Tree) -> Tree:
        """The rows of all processes in one tree, from each one's own; a gradient through it reaches each one's own."""
        leaves = leaves_of(tree)
        places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor) and leaf.ndim]
        padded = [self._padded(leaves[i]) for i in places]
        for i, whole in zip(places, reduce_from_ranks(self.ranks, padded), strict=True):
            leaves[i] = whole
        return filled(tree, leaves)

    def _padded(self, rows: Tensor) -> Tensor:
        count, others = self.ranks.rank, self.ranks.size - self.ranks.rank - 1
        zeros = rows.new_zeros(len(rows), *rows.shape[1:])
        return torch.cat([*[zeros] * count, rows, *[zeros] * others])


class Member:
    """A member of a joined loss, given a process's own rows of the coupling, after the processes were compared.

    Args:
        place: of the coupling among its arguments, of which the batch is the last; None: it is given none.
    """

    def __init__(self, own: Callable[..., Any], joined: Joined, place: int | None) -> None:
        self.own, self.joined, self.place = own, joined, place
        self.__code__ = getattr(own, "__code__", type(own))  # memory 'auto' tells losses apart by it

    def __call__(self, *args: Any) -> Any:
        place, theta, c, dealt = self.place, args[0], None, None
        if place is not None:
            c, theta = args[place], args[0] if place else None
            dealt = self.joined.rows_of(c)
            args = (*args[:place], dealt, *args[place + 1 :])
        self.joined.compare(theta, c, dealt, args[-1])
        return self.own(*args)


def _in_parts(loss: StructuredLoss, joined: Joined) -> StructuredLoss:
    """The loss, joined, every member of which is a :class:`Member`."""

    def member(own: Callable[..., Any], place: int | None = None) -> Any:
        return Member(own, joined, place)

    split, form = loss.split, loss.factored
    if split is not None:
        split = Split(member(split.free), member(split.coupled, 1))
    if form is not None:
        features = tuple(map(member, form.features)) if isinstance(form.features, tuple) else member(form.features)
        rows = None if form.label_rows is None else member(form.label_rows, 0)
        form = Factored(features, member(form.readout, 2), rows)
    return dataclasses.replace(loss, whole=member(loss.whole, 1), split=split, factored=form, joined=joined)


def data_parallel(
    loss: Loss,
    *,
    coupling: Coupling = "whole",
    reduction: Reduction = "mean",
    synchronised: bool = False,
    sharded: FunctionalModel | None = None,
    group: Any = None,
) -> StructuredLoss:
    """The loss of the joined batch, from each process's own loss on its own rows.

    Called on every process of the group with the same parameters and coupling and a batch of its own, of as many rows as the
    others', it gives the same number on all, and so do its derivatives of any order: ``hypergradient``, ``unroll``,
    ``after_training`` and all estimators work with it as with a loss of the joined batch in one process.

    Args:
        loss: ``(params, coupling, batch) -> scalar``, plain or structured; see :class:`~metaimpute.StructuredLoss`.
        coupling: what of the coupling a process's loss is given: the ``whole``, such as hyperparameters, or its own ``rows``,
            such as labels, where every tensor of it has a row for each row of the joined batch, process after process. A dict
            says it for each key of the coupling; keys that it does not name are whole, and so is a tensor without dimensions.
        reduction: ``mean``: a mean over rows, whose mean over processes is the joined one's; ``sum``: a sum over rows, of which
            one process's batch may have fewer than another's.
        synchronised: BatchNorm in training mode takes the joined batch's statistics; else those of each process's own rows, which
            makes another loss.
        sharded: the :class:`~metaimpute.FunctionalModel` whose parameters the loss is given in shards (``fully_shard``). The loss
            reads them as it would others, by ``model(params, ...)`` or ``params[name]``: each is whole while it is used.
            Estimators that take no inner product over parameters work so, and rules that treat each entry by itself; others are
            refused.
        group: of torch.distributed; default: all processes.

    Noise inside the loss is each process's own. For a loss that divides by a sum over rows see :func:`~.own_part.shard_sum`.

    Before every evaluation the processes tell each other how many rows their batches have, by the first dimension of a batch's
    first tensor that has one, and refuse another number in one of them, but for sums. What goes by row has to be of one length
    (under each key by itself), and to have, dealt out, the length of a tensor of the batch. A tensor that is not by row and has
    such a length by chance is cut up all the same, since nothing tells it from the others: name what goes by row.

    Parameters and coupling are held against one another by a checksum, at calls 1, 2, 4, 8, ... of an estimator; those of a loss
    that no estimator was handed as its inner loss, as in :func:`~metaimpute.unroll`, at evaluations 1, 2, 4, 8, ... outside
    torch.func's transforms. Where they have moved apart in between, the next of these tells.

    Raises:
        OtherProgram: where torch.distributed has not been set up, and when the loss is evaluated where the processes have not the
            same. CannotDifferentiate: for a compiled loss.
    """
    if isinstance(loss, Compiled):
        raise CannotDifferentiate("a compiled loss cannot be joined over processes; pass the loss itself")
    for part in coupling.values() if isinstance(coupling, dict) else [coupling]:
        _require_choice("coupling", part, ("whole", "rows"))
    _require_choice("reduction", reduction, ("mean", "sum"))
    whole = loss if isinstance(loss, StructuredLoss) else StructuredLoss(loss)
    if whole.joined is not None:
        raise OtherProgram("this loss is joined over processes already")
    if sharded is not None and not isinstance(sharded, FunctionalModel):
        raise OtherProgram(
            f"sharded= takes the FunctionalModel of a sharded module, not {type(sharded).__name__}; pass "
            "model = FunctionalModel(net)"
        )
    ranks, shards = ranks_of(group), None
    if sharded is not None and sharded.shards:
        shards = sharded.shards
        require_same_ranks(shards, ranks)
    return _in_parts(whole, Joined(ranks, coupling, reduction, synchronised, shards, watched=True))


def _checksum(tree: Tree) -> int:
    """63 bits that tell one tree's floating-point tensors from another's."""
    found = hashlib.sha256()
    for leaf in tensors(tree):
        found.update(f"{leaf.dtype} {tuple(leaf.shape)}".encode())
        found.update(leaf.detach().resolve_conj().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return int.from_bytes(found.digest()[:8], "big") >> 1


def _sizes(tree: Tree) -> list[int]:
    return [len(leaf) for leaf in leaves_of(tree) if isinstance(leaf, Tensor) and leaf.ndim]


def _require_choice(option: str, value: object, choices: tuple[str, ...]) -> None:
    """Raises:
    OtherProgram: for a value that is none of the choices."""
    if value not in choices:
        raise OtherProgram(
            f"data_parallel: no {option} is called {value!r}; {describe_choices(str(value), list(choices))}"
        )

"""Splits that depend on a seed alone: disjoint, reproducible, and the test rows never move. Balanced, or as the classes are."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..engine.noise import derive_seed
from ..streams import Stream
from .base import Pool, TaskData, TaskError, check_balanced


def generator(seed: int, *path: int) -> torch.Generator:
    """A CPU generator for the stream ``path`` of ``seed``."""
    return torch.Generator(device="cpu").manual_seed(derive_seed(seed, *path))


def balanced_choice(targets: Tensor, count: int, rng: torch.Generator, classes: int, what: str = "labels") -> Tensor:
    """Positions of ``count`` examples with the same number of each class, in random order.

    Args:
        targets: ``[n]`` class indices; negative entries are never chosen.

    Raises:
        TaskError: when ``count`` is not a positive multiple of ``classes``, or a class has too few examples.
    """
    check_balanced(count, classes, what)
    per_class = count // classes
    chosen = []
    for label in range(classes):
        members = (targets == label).nonzero()[:, 0]
        if len(members) < per_class:
            raise TaskError(f"{what}: {per_class} per class asked, but class {label} has only {len(members)} examples")
        chosen.append(members[torch.randperm(len(members), generator=rng, device="cpu")[:per_class]])
    together = torch.cat(chosen)
    return together[torch.randperm(len(together), generator=rng, device="cpu")]


def stratified_choice(
    targets: Tensor, count: int, rng: torch.Generator, classes: int | None, *, least: int = 0, spare: int = 0
) -> Tensor:
    """Positions of ``count`` known examples, each class in proportion to its size, in random order.

    Shares are rounded so that they add up (largest remainders first), as far as ``least`` and ``spare`` leave the choice.

    Args:
        targets: ``[n]`` class indices, negative where unknown; or ``[n, 1]`` values, NaN where unknown.
        classes: None where targets are values; any known examples then.
        least: at least so many of every class, as far as it has them. spare: so many of every class are never chosen.
    """
    known = is_known(targets)
    groups = [known] if classes is None else [known & (targets == label) for label in range(classes)]
    members = [group.nonzero()[:, 0] for group in groups]
    free = [max(len(group) - spare, 0) for group in members]
    count = min(max(count, 0), sum(free))
    share = [count * room / max(sum(free), 1) for room in free]
    wanted = [min(max(int(exact), least), room) for exact, room in zip(share, free, strict=True)]
    while (short := count - sum(wanted)) != 0:
        step = 1 if short > 0 else -1
        may = [i for i, n in enumerate(wanted) if (n < free[i] if step > 0 else n > min(least, free[i]))]
        if not may:  # every class already stands at its least
            break
        place = max(may, key=lambda i: step * (share[i] - wanted[i]))
        wanted[place] += step
    drawn = [
        group[torch.randperm(len(group), generator=rng, device="cpu")[:n]]
        for group, n in zip(members, wanted, strict=True)
    ]
    together = torch.cat(drawn)
    return together[torch.randperm(len(together), generator=rng, device="cpu")]


def is_known(targets: Tensor) -> Tensor:
    """``[n]``, true where the target is known: class indices from 0, values that are not NaN."""
    return targets.isfinite().flatten(1).all(1) if targets.is_floating_point() else targets >= 0


def choose(targets: Tensor, rng: torch.Generator, classes: int | None, count: int, share: float = 0.0) -> Tensor:
    """Positions of the labelled examples, in random order: ``count`` of them, or a ``share`` where count is 0.

    Args:
        classes: number of classes, which a count spreads evenly over and a share is taken of one by one (at least one
            example each; the paper labels 5% per class of ImageNet); None where targets are values.

    Raises:
        TaskError: when there are too few examples, naming the option.
    """
    if count and classes is not None:
        return balanced_choice(targets, count, rng, classes)
    if count > len(targets):
        raise TaskError(f"labels: {count} asked, but there are only {len(targets)} examples")
    if count or classes is None:
        return torch.randperm(len(targets), generator=rng, device="cpu")[: count or max(round(share * len(targets)), 1)]
    chosen = []
    for label in range(classes):
        members = (targets == label).nonzero()[:, 0]
        if not len(members):
            raise TaskError(f"label_share: class {label} has no examples")
        wanted = max(round(share * len(members)), 1)
        chosen.append(members[torch.randperm(len(members), generator=rng, device="cpu")[:wanted]])
    together = torch.cat(chosen)
    return together[torch.randperm(len(together), generator=rng, device="cpu")]


def without(total: int, *taken: Tensor) -> Tensor:
    """Positions in ``range(total)`` that appear in none of ``taken``."""
    free = torch.ones(total, dtype=torch.bool)
    for index in taken:
        free[index] = False
    return free.nonzero()[:, 0]


def semi_supervised(
    train: Pool,
    test: Pool,
    *,
    labels: int,
    validation: int | Tensor,
    classes: int | None,
    seed: int,
    source: str,
    include_labelled: bool = False,
    extra_unlabelled: Pool | None = None,
    label_share: float = 0.0,
) -> TaskData:
    """Draws validation (the same for every seed) and labelled rows (by seed); the rest is unlabelled.

    Args:
        labels: labelled examples in all; 0 for a ``label_share`` of what validation leaves.
        validation: examples kept for validation, or their positions where the data set fixes them.
        classes: None where targets are values; nothing is balanced then.

    Raises:
        TaskError: when the numbers cannot be met, naming the option.
    """
    targets = train.targets
    if targets is None:
        raise TaskError("the training data has no labels to draw from")
    held = torch.empty(0, dtype=torch.long)
    if isinstance(validation, Tensor):
        held = validation
    elif validation and classes is not None:
        held = balanced_choice(targets, validation, generator(0, Stream.VALIDATION), classes, "validation")
    elif validation:
        if validation >= len(train):
            raise TaskError(f"validation: {validation} asked, but there are only {len(train)} examples")
        held = torch.randperm(len(train), generator=generator(0, Stream.VALIDATION), device="cpu")[:validation]
    free = without(len(train), held)
    drawn = free[choose(targets[free], generator(seed, Stream.LABELS), classes, labels, label_share)]
    rest = free if include_labelled else without(len(train), held, drawn)
    unlabelled = train.subset(rest)
    if extra_unlabelled is not None:
        unlabelled = _joined(unlabelled, extra_unlabelled)
    if not len(unlabelled):
        option = f"labels: {labels}" if labels else f"label_share: {label_share:g}"
        raise TaskError(f"{option} leaves no unlabelled examples")
    return TaskData(train.subset(drawn), unlabelled, train.subset(held), test, source)


def partly_labelled(
    pool: Pool,
    tested: Tensor | None,
    *,
    labels: int,
    validation: int,
    test_share: float,
    classes: int | None,
    seed: int,
    include_labelled: bool,
    source: str,
    warnings: tuple[str, ...] = (),
    remedy: str = "leave some labels blank",
) -> TaskData:
    """Splits a data set of which some examples have a label: no class need be as large as another.

    The test and validation examples have labels and are the same for every seed; they leave every class at least one label.

    Args:
        pool: all examples, with unknown targets as in :func:`stratified_choice`.
        tested: positions of the test examples where the user gives them; None takes ``test_share`` of the labelled ones.
        labels: at most so many training labels, drawn by ``seed``, at least one of every class; the others join the unlabelled
            examples. 0 keeps all.
        validation: labelled examples kept for validation. remedy: what to do where no example is without label.

    Raises:
        TaskError: when a class has no training label, or nothing is left in a part that must not be empty.
    """
    assert pool.targets is not None
    usable = pool.targets.clone()

    def known() -> int:
        return int(is_known(usable).sum())

    def hide(taken: Tensor) -> Tensor:
        usable[taken] = -1 if classes is not None else float("nan")
        return taken

    if tested is None:
        asked = round(test_share * known())
        tested = stratified_choice(usable, asked, generator(0, Stream.TEST), classes, spare=1).sort().values
    hide(tested)
    if validation >= max(known(), 1):
        raise TaskError(f"validation: {validation} asked, but only {known()} examples beside the test set have a label")
    held = hide(stratified_choice(usable, validation, generator(0, Stream.VALIDATION), classes, spare=1).sort().values)
    drawn = stratified_choice(usable, labels or known(), generator(seed, Stream.LABELS), classes, least=1)
    rest = without(len(pool), tested, held) if include_labelled else without(len(pool), tested, held, drawn)
    if not len(drawn):
        raise TaskError("no example has a label; a few labels of every class are needed")
    if not len(rest):
        raise TaskError(
            f"every example has a label; {remedy}, or set unlabelled_includes_labelled: true to train on them all, for "
            "metaimpute predict to label new ones"
        )
    hide(drawn)  # where training draws a labelled example as an unlabelled one, its label is no truth to compare with
    unlabelled = dataclasses.replace(pool, targets=usable).subset(rest)
    return TaskData(pool.subset(drawn), unlabelled, pool.subset(held), pool.subset(tested), source, warnings)


def _joined(left: Pool, right: Pool) -> Pool:
    """Two pools one after the other; unknown targets are marked with -1."""
    unknown = torch.full((len(right),), -1) if right.targets is None else right.targets
    inputs: Tensor | Sequence[Any]
    if isinstance(left.inputs, Tensor) and isinstance(right.inputs, Tensor):
        inputs = torch.cat([left.inputs, right.inputs])
    else:
        inputs = Chain(left.inputs, right.inputs)
    targets = None if left.targets is None else torch.cat([left.targets, unknown])
    return dataclasses.replace(left, inputs=inputs, targets=targets, ids=torch.cat([left.ids, right.ids]))


class Chain(Sequence[Any]):
    """Two sequences as one; nothing is read before it is asked for."""

    def __init__(self, left: Tensor | Sequence[Any], right: Tensor | Sequence[Any]) -> None:
        self.left, self.right = left, right

    def __len__(self) -> int:
        return len(self.left) + len(self.right)

    def __getitem__(self, position: Any) -> Any:
        if isinstance(position, slice):
            return [self[i] for i in range(*position.indices(len(self)))]
        if not -len(self) <= position < len(self):
            raise IndexError(position)
        position %= len(self)
        return self.left[position] if position < len(self.left) else self.right[position - len(self.left)]


def separate_holdout(pool: Pool, classes: int | None, seed: int, share: float = 0.6) -> tuple[Pool, Pool]:
    """Splits a labelled pool 60/40 per class into training and hold-out (paper, section 5.4, Table 6).

    Raises:
        TaskError: when a class has fewer than two labels.
    """
    rng = generator(seed, Stream.HOLDOUT_SPLIT)
    groups = [torch.arange(len(pool))]
    if classes is not None and pool.targets is not None:
        groups = [(pool.targets == label).nonzero()[:, 0] for label in range(classes)]
    train, holdout = [], []
    for label, members in enumerate(groups):
        if len(members) < 2:
            raise TaskError(f"holdout: separate needs at least 2 labels per class; class {label} has {len(members)}")
        order = members[torch.randperm(len(members), generator=rng, device="cpu")]
        cut = min(max(round(share * len(members)), 1), len(members) - 1)
        train.append(order[:cut])
        holdout.append(order[cut:])
    return pool.subset(torch.cat(train)), pool.subset(torch.cat(holdout))

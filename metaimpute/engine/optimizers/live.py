"""The rule of optimisers of torch.optim in use: their parameter groups are read again before every step."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..ambient import CannotDifferentiate
from ..pytree import Tree, tree_map
from .base import Hyper, InnerOptimizer, UnsupportedOptimizer, require_rule
from .torch_twins import as_it_stands
from .transforms import Transform, chain
from .twin_back import put_back

Optimizers = InnerOptimizer | torch.optim.Optimizer | Sequence[torch.optim.Optimizer]
KEPT = frozenset({"amsgrad", "centered"})  # options that say what a rule's state holds
OPEN = "_steps_in_a_block"


def stock(optimizer: Any) -> list[torch.optim.Optimizer]:
    """The optimisers of torch.optim among what was given; none for a rule.

    Raises:
        UnsupportedOptimizer: for anything else.
    """
    if isinstance(optimizer, torch.optim.Optimizer):
        return [optimizer]
    if isinstance(optimizer, list | tuple):
        others = [one for one in optimizer if not isinstance(one, torch.optim.Optimizer)]
        if optimizer and not others:
            return list(optimizer)
    require_rule(optimizer, "optimizer is one of torch.optim, a list of them, or")
    return []


class LiveRule:
    """A rule as it is before each step.

    Args:
        params: the parameters that are moved, by name, as a torch optimiser holds them.
        gradients: what they pass through on their way to the rule.
        override: hyperparameters in place of the optimiser's: numbers, tensors, dicts by parameter name, or lists with one of
            them per parameter group.
    """

    def __init__(
        self,
        optimizer: Any,
        params: Mapping[str, Tensor],
        resume: bool,
        gradients: Sequence[Transform],
        override: Mapping[str, Any],
    ) -> None:
        self._given, self._params, self._gradients = optimizer, params, gradients
        self._stock = stock(optimizer)
        self._groups: list[dict[str, Any]] = []
        self._override = override
        own: InnerOptimizer = as_it_stands(optimizer, params, resume) if self._stock else optimizer
        self.rule = chain(*gradients, own)
        self._groups, self._held = self._seen(), self._ids()
        if len(set(self._held)) < len(self._held):
            raise UnsupportedOptimizer(
                "two optimizers hold the same parameter, which each would move; give every parameter to one of them"
            )
        self._current = self._with(self.rule, override)

    def now(self, changes: Mapping[str, Any]) -> InnerOptimizer:
        """The rule of the coming step. ``changes``: hyperparameters of that step alone.

        Raises:
            UnsupportedOptimizer: for a hyperparameter that the rule does not have, or a value that none can have.
        """
        groups = self._seen()
        if self._ids() != self._held:
            raise UnsupportedOptimizer(
                "the optimizer holds other parameters than at the beginning of the block (add_param_group); give it all of them "
                "before, with a learning rate of 0 until they are to move"
            )
        if not _same(groups, self._groups):
            self._require_same_state(groups)
            self._groups = groups
            asked = chain(*self._gradients, as_it_stands(self._given, self._params, False))
            self._current = self._with(replace(asked, init=self.rule.init), self._override)
        return self._with(self._current, changes) if changes else self._current

    def _seen(self) -> list[dict[str, Any]]:
        """What the groups say, without their parameters."""
        groups = [group for one in self._stock for group in one.param_groups]
        return [{key: value for key, value in group.items() if key != "params"} for group in groups]

    def _require_same_state(self, groups: Sequence[Mapping[str, Any]]) -> None:
        """Raises:
        UnsupportedOptimizer: for an option that was changed since, and with it what the rule keeps from step to step."""
        for before, now in zip(self._groups, groups, strict=True):
            for key in KEPT & before.keys() & now.keys():
                if bool(before[key]) != bool(now[key]):
                    raise UnsupportedOptimizer(
                        f"{key} was changed inside the block, and what the optimizer has kept since its beginning is not for it; "
                        f"set {key} before the block"
                    )

    def _ids(self) -> list[int]:
        return [id(p) for one in self._stock for group in one.param_groups for p in group["params"]]

    def _with(self, rule: InnerOptimizer, changes: Mapping[str, Any]) -> InnerOptimizer:
        known = {key for key in changes if key in rule.hyper or key.removesuffix("_1") in rule.hyper}
        given = {key: self._by_name(key, value) if key in known else value for key, value in changes.items()}
        found = rule.with_hyper(**given)
        if self._stock:  # a scheduler may write into a tensor that an earlier step has used
            found = replace(found, hyper={key: tree_map(_own, value) for key, value in found.hyper.items()})
        return found

    def _by_name(self, key: str, value: Any) -> Any:
        if not isinstance(value, list | tuple):
            return value
        groups = self._stock[0].param_groups if len(self._stock) == 1 else []
        if len(value) != len(groups):
            raise UnsupportedOptimizer(
                f"a list for {key} has one value per parameter group of one torch optimizer, {len(groups)} here, not "
                f"{len(value)}; give one value for all, or a dict by parameter name"
            )
        number = {id(p): index for index, group in enumerate(groups) for p in group["params"]}
        return {name: value[number[id(p)]] for name, p in self._params.items()}

    @contextlib.contextmanager
    def in_charge(self) -> Iterator[None]:
        """The optimisers' own ``step`` is refused in this block: it would move the user's parameters, not the block's.

        Raises:
            CannotDifferentiate: for an optimiser that another block is in charge of.
        """
        kept: list[tuple[torch.optim.Optimizer, Any]] = []
        try:
            for one in self._stock:
                if getattr(one.step, OPEN, False):
                    raise CannotDifferentiate(
                        f"this {type(one).__name__} takes the steps of an open block already; make another optimizer for a block "
                        "inside it"
                    )
                kept.append((one, vars(one).get("step")))
                vars(one)["step"] = _refused
            yield
        finally:
            for one, before in kept:
                if before is None:
                    del vars(one)["step"]
                else:
                    vars(one)["step"] = before

    def put_back(self, state: Tree, steps: int) -> None:
        """Copies the rule's state into the optimisers of torch, so that they go on from it."""
        if self._stock:
            put_back(self._stock, self._params, state[-1] if self._gradients else state, steps)

    def called(self) -> None:
        """Tells schedulers that a step was taken, which they look for."""
        for one in self._stock:
            vars(one)["_opt_called"] = True


def _refused(*_: Any, **__: Any) -> None:
    raise CannotDifferentiate(
        "optimizer.step() inside the block would move the model's own parameters; inner.step(loss) takes the step, gradient "
        "included: leave out backward() and optimizer.step()"
    )


setattr(_refused, OPEN, True)
setattr(_refused, "_wrapped_by_lr_sched", True)  # noqa: B010  # what schedulers look for


def _own(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) and not value.requires_grad else value


def _same(left: Sequence[Hyper], right: Sequence[Hyper]) -> bool:
    return len(left) == len(right) and all(
        a.keys() == b.keys() and all(_equal(a[key], b[key]) for key in a) for a, b in zip(left, right, strict=True)
    )


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        return a is b and not (isinstance(a, Tensor) and not a.requires_grad)  # which may have been written into
    found = a == b
    return found if isinstance(found, bool) else bool(getattr(found, "all", lambda: found)())  # of numpy's arrays

"""What is put before and after a rule (gradient clipping, schedules of the learning rate), and parameter groups."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor

from ..pytree import Tree, map_tensors, tensors
from .base import Hyper, InnerOptimizer, UnsupportedOptimizer, closed, is_closed, require_rule, root
from .names import SEVERAL, chosen_by_name, several_of

TOO_SHORT = "the schedule has {} values, but step {} was asked for"
Schedule = Callable[[int], Any] | Sequence[float] | Tensor


@dataclass(frozen=True)
class Transform:
    """What goes before or after a rule in a :func:`chain`: a pair of pure functions, as a rule is.

    Attributes:
        init: ``params -> state``. update: ``(updates, state, params, hyper) -> (updates, state)``; before the rule updates are
            gradients. hyper: its hyperparameters, of all parameters together. name: shown in messages.
        per_entry: whether each entry is treated by itself, so that stacked problems stay apart. factors: one for each step, where
            there are so many; the name of a hyperparameter that holds them, or their number.
    """

    init: Callable[[Tree], Tree]
    update: Callable[[Tree, Tree, Tree, Hyper], tuple[Tree, Tree]]
    hyper: Hyper
    name: str
    per_entry: bool = False
    factors: str | int | None = None


def chain(*parts: Transform | InnerOptimizer) -> InnerOptimizer:
    """One rule after another: what a part gives is what the next one gets (as ``optax.chain``).

    One part is a rule, such as ``adam(0.1)``, the others transform gradients before it or updates after it::

        chain(clip_by_global_norm(1.0), adam(1e-2), scale_by_schedule([1.0, 0.5, 0.25]))

    Hyperparameters keep their names; one that is taken gets a number, so that the second norm is ``clip_norm_2``.

    Raises:
        UnsupportedOptimizer: unless exactly one part is a rule.
    """
    for part in parts:
        if not isinstance(part, Transform | InnerOptimizer):
            require_rule(part, "a part of a chain that is no transform")
    rules = [part for part in parts if isinstance(part, InnerOptimizer)]
    if len(rules) != 1:
        raise UnsupportedOptimizer(f"a chain has one rule among its parts, such as adam(0.1), not {len(rules)}")
    rule = rules[0]
    if len(parts) == 1:
        return rule
    if rule.stages != (True,):
        raise UnsupportedOptimizer(
            f"a chain around {rule.label}, whose step has {len(rule.stages)} stages, would treat each as a step; put transforms "
            "inside, such as sharpness_aware(chain(clip(1.0), sgd(0.1)))"
        )
    hyper, names = dict(rule.hyper), []
    for part in parts:
        own = {key: key if part is rule else free_name(key, hyper) for key in part.hyper}
        hyper.update({own[key]: value for key, value in part.hyper.items()})
        names.append(own)

    def init(params: Tree) -> Tree:
        return [part.init(params) for part in parts]

    def update(grads: Tree, state: Tree, params: Tree, hyper: Hyper) -> tuple[Tree, Tree]:
        after = []
        for part, own, before in zip(parts, names, state, strict=True):
            grads, following = part.update(grads, before, params, {key: hyper[name] for key, name in own.items()})
            after.append(following)
        return grads, after

    if all(is_closed(part.init, part.update) for part in parts):
        init, update = closed(init), closed(update)
    around = [part.name for part in parts if isinstance(part, Transform)]
    named = [(part.factors, own) for part, own in zip(parts, names, strict=True) if isinstance(part, Transform)]
    factors = [own[given] if isinstance(given, str) else given for given, own in named if given is not None]
    mixes = [part.name for part in parts if isinstance(part, Transform) and not part.per_entry]
    whole = [name for part, own in zip(parts, names, strict=True) if part is not rule for name in own.values()]
    numbered = enumerate(zip(parts, names, strict=True), 1)
    said: list[tuple[str, dict[str, str], dict[str, Any]]] = [
        (f"part {number} of the chain", own, {}) for number, (part, own) in numbered if part is not rule
    ]
    said.insert(0, ("the rule inside", {key: key for key in rule.hyper}, rule.options))
    options = {
        **rule.options,
        "linear": False,
        "transforms": (*rule.options.get("transforms", ()), *around),
        "factors": (*rule.options.get("factors", ()), *factors),
        "mixes": (*rule.options.get("mixes", ()), *mixes),
        "whole": frozenset(whole) | rule.options.get("whole", frozenset()),
        SEVERAL: several_of(said),
    }
    return InnerOptimizer(init, update, hyper, rule.label, options)


def free_name(name: str, taken: Hyper) -> str:
    """The name, with the first number from 2 that makes it one of its own."""
    number = 1
    while (found := name if number == 1 else f"{name}_{number}") in taken:
        number += 1
    return found


@closed
def _stateless(params: Tree) -> Tree:
    return None


@closed
def _from_zero(params: Tree) -> Tree:
    return 0


def _positive(name: str, value: Any) -> Any:
    """The value, with numpy's numbers as Python's."""
    kind = getattr(getattr(value, "dtype", None), "kind", "f")  # of numpy's numbers and arrays
    if (
        isinstance(value, Mapping)
        or kind not in "fiu"
        or not (isinstance(value, Tensor | int | float) or hasattr(value, "__float__"))
    ):
        raise UnsupportedOptimizer(f"{name} is one number for all parameters, not a {type(value).__name__}")
    if not isinstance(value, Tensor) and getattr(value, "shape", None):
        raise UnsupportedOptimizer(
            f"{name} is one number for all parameters, not a {type(value).__name__} of shape {list(value.shape)}"
        )
    if isinstance(value, Tensor) and (value.numel() != 1 or value.is_complex()):
        found = "a complex tensor" if value.is_complex() else f"a tensor of shape {list(value.shape)}"
        raise UnsupportedOptimizer(f"{name} is one number for all parameters, not {found}")
    if not isinstance(value, Tensor):
        if not value > 0:
            raise UnsupportedOptimizer(f"{name} must be above 0, not {value}")
    elif not value.is_meta and torch._C._functorch.peek_interpreter_stack() is None and bool((value <= 0).any()):
        raise UnsupportedOptimizer(f"{name} must be above 0, not {value.tolist()}")
    return value if isinstance(value, Tensor) or not hasattr(value, "dtype") else value.item()


def clip_by_global_norm(max_norm: Any) -> Transform:
    """Scales the whole gradient down to Euclidean norm ``max_norm``, as ``torch.nn.utils.clip_grad_norm_`` does.

    ``max_norm`` is the hyperparameter ``clip_norm`` and may be a tensor. The scale depends on the gradient and is
    differentiated too.

    Raises:
        UnsupportedOptimizer: for what is not above 0.
    """
    max_norm = _positive("clip_norm", max_norm)

    def update(grads: Tree, state: Tree, params: Tree, hyper: Hyper) -> tuple[Tree, Tree]:
        parts = [g.square().sum() for g in tensors(grads)]
        if parts:
            length = root(torch.stack(parts).sum())
            scale = (hyper["clip_norm"] / (length + 1e-6)).clamp(max=1.0)
            grads = map_tensors(lambda g: g * scale, grads)
        return grads, state

    return Transform(_stateless, closed(update), {"clip_norm": max_norm}, "clip_norm")


def clip(limit: Any) -> Transform:
    """Clamps every entry of the gradient to ``[-limit, limit]``; ``limit`` is the hyperparameter ``clip_value``.

    Raises:
        UnsupportedOptimizer: for what is not above 0.
    """
    limit = _positive("clip_value", limit)

    def update(grads: Tree, state: Tree, params: Tree, hyper: Hyper) -> tuple[Tree, Tree]:
        bound = hyper["clip_value"]

        def clamp(g: Tensor) -> Tensor:
            if not isinstance(bound, Tensor):
                return g.clamp(-bound, bound)
            return torch.minimum(torch.maximum(g, -bound.to(g)), bound.to(g))

        return map_tensors(clamp, grads), state

    return Transform(_stateless, closed(update), {"clip_value": limit}, "clip_value", per_entry=True)


def scale_by_schedule(schedule: Schedule) -> Transform:
    """Multiplies the update of step t (from 0) by ``schedule``: after a rule, a schedule of its learning rate.

    Args:
        schedule: a function of t, a list with one factor per step, or a tensor ``[steps]``, which then is the
            hyperparameter ``schedule`` and receives a gradient: a learned learning-rate schedule.

    Raises:
        UnsupportedOptimizer: for a list with a tensor that requires a gradient; at a step beyond the end of a list or tensor.
    """
    learned, called = isinstance(schedule, Tensor), callable(schedule) and not isinstance(schedule, Tensor)
    if not called and (
        not isinstance(schedule, Sequence | Tensor) or isinstance(schedule, str) or getattr(schedule, "ndim", 1) != 1
    ):
        found = (
            "a tensor without steps"
            if isinstance(schedule, Tensor) and not schedule.ndim
            else f"a {type(schedule).__name__}"
        )
        raise UnsupportedOptimizer(
            f"a schedule is a function of the step, a list with one factor per step or a tensor [steps], not {found}"
        )
    if not learned and not called:
        schedule = list(schedule)  # type: ignore[arg-type]  # a sequence
        if any(isinstance(value, Tensor) and value.requires_grad for value in schedule):
            raise UnsupportedOptimizer(
                "a schedule's list holds a tensor that requires a gradient and would get none; pass one tensor of all factors, "
                "such as torch.stack([...])"
            )

    def factor(t: int, hyper: Hyper) -> Any:
        if not isinstance(schedule, Tensor) and callable(schedule):
            return schedule(t)
        values: Any = hyper["schedule"] if learned else schedule
        if isinstance(t, Tensor):  # the count of a compiled step, on whose value nothing may branch
            place = values.device if isinstance(values, Tensor) else t.device
            factors = torch.as_tensor(values, dtype=None if learned else torch.float64, device=place)
            return factors.take(t.long().to(place))
        if t >= len(values):
            raise UnsupportedOptimizer(TOO_SHORT.format(len(values), t + 1))
        return values[t]

    def update(updates: Tree, state: Tree, params: Tree, hyper: Hyper) -> tuple[Tree, Tree]:
        scale = factor(state, hyper)
        return map_tensors(lambda u: u * scale, updates), state + 1

    if not called:
        update = closed(update)
    factors: Any = "schedule" if learned else None if called else len(schedule)  # type: ignore[arg-type]
    hyper = {"schedule": schedule} if learned else {}
    return Transform(_from_zero, update, hyper, "schedule", per_entry=True, factors=factors)


def require_factors(rule: InnerOptimizer, steps: int) -> None:
    """Checks before any step that the rule's schedules reach that far.

    Raises:
        UnsupportedOptimizer: for one that is too short.
    """
    known = rule.options.get("factors", ())
    number = min((len(rule.hyper[it]) if isinstance(it, str) else it for it in known), default=steps)
    if number < steps:
        raise UnsupportedOptimizer(TOO_SHORT.format(number, number + 1))


def clip_norm(rule: InnerOptimizer, max_norm: Any) -> InnerOptimizer:
    """``chain(clip_by_global_norm(max_norm), rule)``."""
    return chain(clip_by_global_norm(max_norm), rule)


def clip_value(rule: InnerOptimizer, limit: Any) -> InnerOptimizer:
    """``chain(clip(limit), rule)``."""
    return chain(clip(limit), rule)


def scheduled(rule: InnerOptimizer, schedule: Schedule) -> InnerOptimizer:
    """``chain(rule, scale_by_schedule(schedule))``: multiplies the learning rate of step t (from 0) by ``schedule``."""
    return chain(rule, scale_by_schedule(schedule))


def parameter_groups(rule: InnerOptimizer, params: Mapping[str, Any], groups: Mapping[str, Hyper]) -> InnerOptimizer:
    """Gives parameters whose name matches a pattern hyperparameters of their own.

    Args:
        params: the parameters by name. groups: ``{"encoder.*": {"lr": 1e-3}, "*.bias": {"weight_decay": 0.0}}``; shell
            patterns, later groups win.

    Raises:
        UnsupportedOptimizer: for a pattern that matches nothing or a hyperparameter the rule does not have.
    """
    hyper = dict(require_rule(rule, "what parameter_groups() is given").hyper)
    for pattern, values in groups.items():
        if not isinstance(values, Mapping):
            raise UnsupportedOptimizer(
                f"the group '{pattern}' is a dict of hyperparameters, such as {{'lr': 0.01}}, not {values!r}"
            )
        names = [name for name in params if fnmatchcase(name, pattern)]
        if not names:
            raise UnsupportedOptimizer(
                f"no parameter matches '{pattern}'; there are {', '.join(list(params)[:5])}, ..."
            )
        changed = rule.with_hyper(**values).hyper
        values = {key: changed[key] for key in chosen_by_name(rule.label, rule.options, values)}
        whole = set(values) & rule.options.get("whole", frozenset())
        if whole:
            raise UnsupportedOptimizer(f"{min(whole)} is one for all parameters and cannot differ between groups")
        for key, value in values.items():
            now = hyper[key]
            spread = dict(now) if isinstance(now, Mapping) else dict.fromkeys(params, now)
            hyper[key] = {**spread, **dict.fromkeys(names, value)}
    return replace(rule, hyper=hyper)

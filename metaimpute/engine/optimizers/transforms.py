"""What is put around a rule: gradient clipping, schedules of the learning rate, and parameter groups."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor

from ..pytree import Tree, map_tensors, tensors
from .base import Hyper, InnerOptimizer, UnsupportedOptimizer, root

Schedule = Callable[[int], Any] | Sequence[float] | Tensor


def _around(rule: InnerOptimizer, name: str, value: Any, **changes: Any) -> InnerOptimizer:
    """The rule with a transformation around it, whose value is a hyperparameter of its own."""
    present = rule.options.get("transforms", ())
    if name in present:
        raise UnsupportedOptimizer(f"the rule has a {name} already; give it one with the product of both")
    numbers = value if isinstance(value, list) else [value]
    if any(isinstance(number, int | float) and not number > 0 for number in numbers):
        raise UnsupportedOptimizer(f"{name} must be above 0, not {value}")
    hyper = rule.hyper if value is None else {**rule.hyper, name: value}
    return replace(rule, hyper=hyper, options={**rule.options, "transforms": (*present, name)}, **changes)


def clip_norm(rule: InnerOptimizer, max_norm: Any) -> InnerOptimizer:
    """Scales the whole gradient down to Euclidean norm ``max_norm``, as ``torch.nn.utils.clip_grad_norm_`` does.

    ``max_norm`` becomes the hyperparameter ``clip_norm`` and may be a tensor. The scale depends on the gradient and is
    differentiated too.
    """

    def update(grads: Tree, state: Tree, params: Tree, hyper: Hyper) -> tuple[Tree, Tree]:
        parts = [g.square().sum() for g in tensors(grads)]
        if parts:
            length = root(torch.stack(parts).sum())
            scale = (hyper["clip_norm"] / (length + 1e-6)).clamp(max=1.0)
            grads = map_tensors(lambda g: g * scale, grads)
        return rule.update(grads, state, params, hyper)

    return _around(rule, "clip_norm", max_norm, update=update)


def clip_value(rule: InnerOptimizer, limit: Any) -> InnerOptimizer:
    """Clamps every entry of the gradient to ``[-limit, limit]``; ``limit`` becomes the hyperparameter ``clip_value``."""

    def update(grads: Tree, state: Tree, params: Tree, hyper: Hyper) -> tuple[Tree, Tree]:
        bound = hyper["clip_value"]

        def clamp(g: Tensor) -> Tensor:
            if not isinstance(bound, Tensor):
                return g.clamp(-bound, bound)
            return torch.minimum(torch.maximum(g, -bound.to(g)), bound.to(g))

        return rule.update(map_tensors(clamp, grads), state, params, hyper)

    return _around(rule, "clip_value", limit, update=update)


def scheduled(rule: InnerOptimizer, schedule: Schedule) -> InnerOptimizer:
    """Multiplies the learning rate of step t (from 0) by ``schedule``.

    Args:
        schedule: a function of t, a list with one factor per step, or a tensor ``[steps]``, which then is the
            hyperparameter ``schedule`` and receives a gradient: a learned learning-rate schedule.

    Raises:
        UnsupportedOptimizer: at a step beyond the end of a list or tensor.
    """
    learned = isinstance(schedule, Tensor)

    def factor(t: int, hyper: Hyper) -> Any:
        if not isinstance(schedule, Tensor) and callable(schedule):
            return schedule(t)
        values: Any = hyper["schedule"] if learned else schedule
        if isinstance(t, Tensor):  # the count of a compiled step, on whose value nothing may branch
            return torch.as_tensor(values, dtype=None if learned else torch.float64).take(t.long())
        if t >= len(values):
            raise UnsupportedOptimizer(f"the schedule has {len(values)} values, but step {t + 1} was asked for")
        return values[t]

    def init(params: Tree) -> Tree:
        return {"t": 0, "rule": rule.init(params)}

    def update(grads: Tree, state: Tree, params: Tree, hyper: Hyper) -> tuple[Tree, Tree]:
        scale, lr = factor(state["t"], hyper), hyper["lr"]
        now = {k: v * scale for k, v in lr.items()} if isinstance(lr, Mapping) else lr * scale
        updates, inner = rule.update(grads, state["rule"], params, {**hyper, "lr": now})
        return updates, {"t": state["t"] + 1, "rule": inner}

    return _around(rule, "schedule", schedule if learned else None, init=init, update=update)


def parameter_groups(rule: InnerOptimizer, params: Mapping[str, Any], groups: Mapping[str, Hyper]) -> InnerOptimizer:
    """Gives parameters whose name matches a pattern hyperparameters of their own.

    Args:
        params: the parameters by name. groups: ``{"encoder.*": {"lr": 1e-3}, "*.bias": {"weight_decay": 0.0}}``; shell
            patterns, later groups win.

    Raises:
        UnsupportedOptimizer: for a pattern that matches nothing or a hyperparameter the rule does not have.
    """
    hyper = dict(rule.hyper)
    for pattern, values in groups.items():
        names = [name for name in params if fnmatchcase(name, pattern)]
        if not names:
            raise UnsupportedOptimizer(
                f"no parameter matches '{pattern}'; there are {', '.join(list(params)[:5])}, ..."
            )
        rule.with_hyper(**values)
        whole = set(values) & {"clip_norm", "schedule"}
        if whole:
            raise UnsupportedOptimizer(f"{whole.pop()} is one for all parameters and cannot differ between groups")
        for key, value in values.items():
            now = hyper[key]
            spread = dict(now) if isinstance(now, Mapping) else dict.fromkeys(params, now)
            hyper[key] = {**spread, **dict.fromkeys(names, value)}
    return replace(rule, hyper=hyper)

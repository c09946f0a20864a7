"""The mean of a rule's iterates as its result: Polyak averaging, SWA and moving averages."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..pytree import Tree, differentiable, filled, leaves_of
from .base import (
    Hyper,
    InnerOptimizer,
    UnsupportedOptimizer,
    apply_updates,
    closed,
    is_closed,
    require_hyper,
    require_rule,
)
from .stages import parks, require_one_stage
from .transforms import free_name


def averaged(rule: InnerOptimizer, decay: Any = None, *, start: int = 0) -> InnerOptimizer:
    """A rule whose result is a mean of where its steps lead, as ``torch.optim.swa_utils.AveragedModel`` keeps it.

    The rule goes on from its own last point; the parameters between steps, and those that the outer loss gets, are the mean: of
    all points from step ``start + 1`` on (Polyak and Juditsky 1992; Izmailov et al., "SWA", UAI 2018), or with ``decay`` the
    moving average ``mean <- decay mean + (1 - decay) p``. Until then they are the last point. Inner losses that are reported
    are at the rule's points.

    Args:
        rule: any rule with one stage. decay: the hyperparameter ``decay``; may be a tensor. None: the mean.
        start: steps before the first that counts.

    Raises:
        UnsupportedOptimizer: for a rule of several stages, and a start or decay that is none.
    """
    rule = require_rule(rule, "what averaged() is given")
    require_one_stage(rule, "averaged() is given", "average the rule inside")
    if not isinstance(start, int) or isinstance(start, bool) or start < 0:
        raise UnsupportedOptimizer(f"averaged: start is a whole number of at least 0, not {start!r}")
    name = free_name("decay", rule.hyper)
    own: Hyper = {} if decay is None else {name: decay}
    own = require_hyper("averaged", own, {})
    if isinstance(decay, dict):
        raise UnsupportedOptimizer("decay is one number for all parameters, not a dict")

    def init(params: Tree) -> Tree:
        nothing = [None] * len(leaves_of(params))
        return {"rule": rule.init(params), "t": 0, "last": nothing, "parked": nothing}

    def back(state: dict[str, Any], params: Tree) -> tuple[Tree, Tree]:
        """From the mean to the rule's own point."""
        pairs = list(zip(state["last"], leaves_of(params), strict=True))
        ways = [
            last - p if last is not None else torch.zeros_like(p) if differentiable(p) else None for last, p in pairs
        ]
        return filled(params, ways), {**state, "parked": [p if differentiable(p) else None for _, p in pairs]}

    def update(grads: Tree, state: dict[str, Any], params: Tree, hyper: Hyper) -> tuple[Tree, Tree]:
        if not parks(state):
            return back(state, params)
        t = state["t"] + 1
        updates, after = rule.update(grads, state["rule"], params, {key: hyper[key] for key in rule.hyper})
        share = _share(t - start, hyper.get(name) if own else None)
        points, ways = [], []
        for mean, p, point in zip(
            state["parked"], leaves_of(params), leaves_of(apply_updates(params, updates)), strict=True
        ):
            points.append(None if mean is None else point)
            ways.append(None if mean is None else mean + share * (point - mean) - p)
        nothing = [None] * len(points)
        return filled(params, ways), {"rule": after, "t": t, "last": points, "parked": nothing}

    if is_closed(rule.init, rule.update):
        init, update = closed(init), closed(update)
    options = {
        **rule.options,
        "linear": False,
        "start": start,
        "whole": rule.options.get("whole", frozenset()) | set(own),
        "transforms": (*rule.options.get("transforms", ()), "averaged"),
    }
    return InnerOptimizer(init, update, {**rule.hyper, **own}, f"averaged({rule.label})", options, (False, True))


def _share(count: Any, decay: Any) -> Any:
    """The part that the newest point has in the mean: all of the first."""
    if isinstance(count, Tensor):
        return 1 / count.clamp(min=1) if decay is None else torch.where(count > 1, 1 - decay, 1.0)
    if count <= 1:
        return 1.0
    return 1 / count if decay is None else 1 - decay

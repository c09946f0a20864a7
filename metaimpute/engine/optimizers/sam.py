"""Sharpness-aware minimisation: a step by the gradient at a point uphill."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..pytree import Tree, differentiable, filled, leaves_of
from .base import (
    Hyper,
    InnerOptimizer,
    UnsupportedOptimizer,
    closed,
    is_closed,
    register_optimizer,
    require_hyper,
    require_rule,
    root,
)
from .sgd import sgd
from .stages import parks, require_one_stage
from .transforms import free_name

TINY = 1e-12  # beside the length of a gradient


def sharpness_aware(rule: InnerOptimizer, rho: Any = 0.05, *, adaptive: bool = False) -> InnerOptimizer:
    """A rule that gets the gradient at ``p + e`` instead of that at p (Foret et al., "SAM", ICLR 2021).

    ``e = rho g / (|g| + 1e-12)`` with g the gradient at p and its length over all parameters; with ``adaptive`` (Kwon et al.,
    "ASAM", ICML 2021) ``e = rho p^2 g / (| |p| g | + 1e-12)``. The rule then moves p itself, so its weight decay is of p. A step
    takes two gradients of one batch, with the same noise, and costs two of its rule's.

    The derivative is exact: that of ``e`` is part of it, second derivatives at both points included. (SAM drops
    ``de/dp`` from the gradient that it descends along, which is another matter.) Where the whole gradient is 0 the
    rule has no derivative, and the slope of ``|g|`` is taken as 0.

    Args:
        rule: any rule with one stage. What clips or schedules goes inside it.
        rho: radius, the hyperparameter ``rho``; may be a tensor.

    Raises:
        UnsupportedOptimizer: for a rule of several stages, and one that maximizes.
    """
    rule = require_rule(rule, "what sharpness_aware() is given")
    require_one_stage(rule, "sharpness_aware() is given", "give it the rule inside")
    if rule.options.get("maximize"):
        raise UnsupportedOptimizer(
            "sharpness_aware() looks uphill of a loss that is minimised; negate the loss instead of maximize"
        )
    name = free_name("rho", rule.hyper)
    rho = require_hyper("sam", {"rho": rho}, {})["rho"]
    if isinstance(rho, dict) or (isinstance(rho, Tensor) and rho.numel() != 1):
        found = "a dict" if isinstance(rho, dict) else f"a tensor of shape {list(rho.shape)}"
        raise UnsupportedOptimizer(f"rho is one number for all parameters, not {found}")

    def init(params: Tree) -> Tree:
        return {"rule": rule.init(params), "parked": [None] * len(leaves_of(params))}

    def up(grads: Tree, state: dict[str, Any], params: Tree, rho: Any) -> tuple[Tree, Tree]:
        found = zip(leaves_of(grads), leaves_of(params), strict=True)
        pairs = [(g if differentiable(p) else None, p) for g, p in found]
        scaled = [None if g is None else (g * p.abs() if adaptive else g) for g, p in pairs]
        parts = [g.abs().square().sum() for g in scaled if g is not None]
        if not parts:
            return filled(params, [None] * len(pairs)), state
        scale = rho / (root(torch.stack(parts).sum()) + TINY)
        ahead = [
            None if s is None else (s * p.abs() if adaptive else s) * scale
            for s, (_, p) in zip(scaled, pairs, strict=True)
        ]
        return filled(params, ahead), {**state, "parked": [None if g is None else p for g, p in pairs]}

    def update(grads: Tree, state: dict[str, Any], params: Tree, hyper: Hyper) -> tuple[Tree, Tree]:
        if not parks(state):
            return up(grads, state, params, hyper[name])
        places = list(zip(state["parked"], leaves_of(params), strict=True))
        own = {key: hyper[key] for key in rule.hyper}
        before = filled(params, [p if parked is None else parked for parked, p in places])
        updates, after = rule.update(grads, state["rule"], before, own)
        back = [_back(parked, p, u) for (parked, p), u in zip(places, leaves_of(updates), strict=True)]
        return filled(params, back), {"rule": after, "parked": [None] * len(places)}

    if is_closed(rule.init, rule.update):
        init, update = closed(init), closed(update)
    options = {
        **rule.options,
        "linear": False,
        "adaptive": adaptive,
        "whole": rule.options.get("whole", frozenset()) | {name},
        "mixes": (*rule.options.get("mixes", ()), "sam"),
        "not_stationary": "the end of 'sam' is none: there the gradient uphill is 0",
    }
    label = "sam" if rule.label in ("sgd", "momentum", "nesterov") else f"sam({rule.label})"
    return InnerOptimizer(init, update, {**rule.hyper, name: rho}, label, options, stages=(True, True))


def _back(parked: Tensor | None, now: Tensor, update: Tensor | None) -> Tensor | None:
    """The update that leads from where the parameters are to where the step goes from where they were."""
    if parked is None:
        return update
    return (parked if update is None else parked + update) - now


@register_optimizer("sam")
def sam(
    lr: Any, momentum: Any = 0.9, *, rho: Any = 0.05, adaptive: bool = False, dampening: Any = 0.0, weight_decay: Any = 0.0,
    nesterov: bool = False,
) -> InnerOptimizer:  # fmt: skip
    """Sharpness-aware minimisation (Foret et al., ICLR 2021) around sgd with momentum; any other rule: ``sharpness_aware``.

    Hyperparameters that can be differentiated: those of sgd, and rho.
    """
    rule = sgd(lr, momentum, dampening=dampening, weight_decay=weight_decay, nesterov=nesterov)
    return sharpness_aware(rule, rho, adaptive=adaptive)

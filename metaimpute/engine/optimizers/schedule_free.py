"""Schedule-free SGD and AdamW: gradients at a point between the iterate and the running mean that is the result."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..pytree import Tree, differentiable, filled, leaves_of
from .base import (
    Hyper,
    InnerOptimizer,
    UnsupportedOptimizer,
    closed,
    hyper_of_each,
    is_zero,
    register_optimizer,
    require_hyper,
    root,
)
from .limits import require_betas, require_real
from .stages import parks

Direction = Callable[[Tensor, Tensor, dict[str, Any], Hyper], tuple[Tensor, Any]]


def _share(weight: Any, total: Any) -> Any:
    """``weight / total``, 0 where there has been no weight yet."""
    if not isinstance(total, Tensor):
        return weight / total if total else 0.0
    some = total > 0
    return torch.where(some, weight / torch.where(some, total, 1.0), 0.0)


def _larger(a: Any, b: Any) -> Any:
    if not isinstance(a, Tensor) and not isinstance(b, Tensor):
        return max(a, b)
    kind = a if isinstance(a, Tensor) else b
    return torch.maximum(
        *torch.broadcast_tensors(*(torch.as_tensor(x, dtype=kind.dtype, device=kind.device) for x in (a, b)))
    )


def _schedule_free(
    label: str, hyper: Hyper, beta: str, warmup_steps: int, direction: Direction, options: dict[str, Any]
) -> InnerOptimizer:
    """The method around a direction of descent ``(gradient, y, state, hyper) -> (direction, mean square)``."""
    if not isinstance(warmup_steps, int) or isinstance(warmup_steps, bool) or warmup_steps < 0:
        raise UnsupportedOptimizer(f"{label}: warmup_steps is a whole number of at least 0, not {warmup_steps!r}")
    hyper = require_hyper(label, hyper, options)

    def init(params: Tree) -> Tree:
        leaves = leaves_of(params)
        fresh = {"t": 0, "z": None, "square": None, "largest": None, "total": None}
        return {"leaves": [dict(fresh) for _ in leaves], "parked": [None] * len(leaves)}

    def look(state: dict[str, Any], params: Tree, hyper: Hyper) -> tuple[Tree, Tree]:
        """From the mean x to ``y = (1 - beta) z + beta x``, where the gradient is taken."""
        ways, leaves, parked = [], [], []
        for leaf, p, own in zip(
            state["leaves"], leaves_of(params), hyper_of_each(label, hyper, params, leaves_of(params)), strict=True
        ):
            z = p if leaf["z"] is None else leaf["z"]
            ways.append((1 - own[beta]) * (z - p) if differentiable(p) else None)
            leaves.append({**leaf, "z": z} if differentiable(p) else leaf)
            parked.append(p if differentiable(p) else None)
        return filled(params, ways), {"leaves": leaves, "parked": parked}

    def one(g: Tensor, y: Tensor, x: Tensor, leaf: dict[str, Any], own: Hyper) -> tuple[Tensor, dict[str, Any]]:
        count = leaf["t"] + 1
        lr = own["lr"]
        if warmup_steps:
            ramp = count / warmup_steps
            lr = lr * (ramp.clamp(max=1.0) if isinstance(ramp, Tensor) else min(1.0, ramp))
        largest = lr if leaf["largest"] is None else _larger(lr, leaf["largest"])
        weight = count ** own["r"] * largest ** own["weight_lr_power"]
        total = weight if leaf["total"] is None else leaf["total"] + weight
        down, square = direction(g, y, leaf, own)
        z = leaf["z"] - lr * down
        after = {"t": count, "z": z, "square": square, "largest": largest, "total": total}
        return x + _share(weight, total) * (z - x), after

    def update(grads: Tree, state: dict[str, Any], params: Tree, hyper: Hyper) -> tuple[Tree, Tree]:
        if not parks(state):
            return look(state, params, hyper)
        ways, leaves = [], []
        each = zip(
            leaves_of(grads),
            leaves_of(params),
            state["parked"],
            state["leaves"],
            hyper_of_each(label, hyper, params, leaves_of(params)),
            strict=True,
        )
        for g, y, x, leaf, own in each:
            end, after = (x, leaf) if g is None or x is None else one(g, y, x, leaf, own)
            ways.append(None if end is None else end - y)
            leaves.append(after)
        return filled(params, ways), {"leaves": leaves, "parked": [None] * len(leaves)}

    return InnerOptimizer(
        closed(init), closed(update), hyper, label, {**options, "warmup_steps": warmup_steps}, stages=(False, True)
    )


@register_optimizer("schedule_free_sgd")
def schedule_free_sgd(
    lr: Any = 1.0, momentum: Any = 0.9, *, weight_decay: Any = 0.0, warmup_steps: int = 0, r: Any = 0.0,
    weight_lr_power: Any = 2.0,
) -> InnerOptimizer:  # fmt: skip
    """Schedule-free SGD (Defazio et al., "The road less scheduled", NeurIPS 2024), as in the package ``schedulefree``.

    Gradients are taken at ``y = (1 - momentum) z + momentum x``; ``z <- z - lr (g + weight_decay y)``; ``x <- (1 - c)
    x + c z`` with ``c = w_t / sum_{i<=t} w_i`` and ``w_t = t^r (largest lr so far)^weight_lr_power``. The parameters
    between steps, and those that the outer loss gets, are x (the package's ``eval()``). Inner losses that are reported
    are at y. At a tie of two learning rates the slope of the largest is the mean of both. A parameter's t counts the
    steps with a gradient of it.

    Hyperparameters that can be differentiated: lr, momentum, weight_decay, r, weight_lr_power.
    """

    def direction(g: Tensor, y: Tensor, leaf: dict[str, Any], own: Hyper) -> tuple[Tensor, Any]:
        return g if is_zero(own["weight_decay"]) else g + own["weight_decay"] * y, None

    require_betas("schedule_free_sgd", [momentum], "momentum")
    hyper = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "r": r, "weight_lr_power": weight_lr_power}
    return _schedule_free("schedule_free_sgd", hyper, "momentum", warmup_steps, direction, {})


@register_optimizer("schedule_free_adamw")
def schedule_free_adamw(
    lr: Any = 0.0025, betas: tuple[Any, Any] = (0.9, 0.999), eps: Any = 1e-8, *, weight_decay: Any = 0.0,
    warmup_steps: int = 0, r: Any = 0.0, weight_lr_power: Any = 2.0, eps_root: Any = 0.0,
) -> InnerOptimizer:  # fmt: skip
    """Schedule-free AdamW (Defazio et al., NeurIPS 2024), as in the package ``schedulefree``.

    As schedule_free_sgd with beta1 in the place of momentum and ``z <- z - lr (g / (sqrt(v_hat + eps_root) + eps) + weight_decay
    y)``, ``v_hat`` as in adam. Slopes at ``v = 0`` are as in adam.

    Hyperparameters that can be differentiated: lr, beta1, beta2, eps, eps_root, weight_decay, r, weight_lr_power.
    """

    def direction(g: Tensor, y: Tensor, leaf: dict[str, Any], own: Hyper) -> tuple[Tensor, Any]:
        require_real("schedule_free_adamw", y)
        square = (1 - own["beta2"]) * g.square()
        if leaf["square"] is not None:
            square = own["beta2"] * leaf["square"] + square
        second = square / (1 - own["beta2"] ** (leaf["t"] + 1))
        if not is_zero(own["eps_root"]):
            second = second + own["eps_root"]
        down = g / (root(second) + own["eps"])
        return down if is_zero(own["weight_decay"]) else down + own["weight_decay"] * y, square

    require_betas("schedule_free_adamw", betas)
    hyper = {
        "lr": lr, "beta1": betas[0], "beta2": betas[1], "eps": eps, "eps_root": eps_root, "weight_decay": weight_decay, "r": r,
        "weight_lr_power": weight_lr_power,
    }  # fmt: skip
    return _schedule_free("schedule_free_adamw", hyper, "beta1", warmup_steps, direction, {"decoupled": True})

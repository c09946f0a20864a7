"""Inner optimisers as pairs of pure functions: ``init(params) -> state`` and ``update(grads, state, params, hyper)``.

Every hyperparameter may be a float, a tensor (then it receives a gradient), or a dict with one value per parameter name.
A parameter whose gradient is None took no part in the loss and, as in ``torch.optim``, does not move.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from .pytree import Tree, differentiable, tree_flatten, tree_map, tree_unflatten
from .registry import Registry

Hyper = dict[str, Any]
Leaf = Tensor | None
LeafInit = Callable[[Tensor], Tree]
LeafUpdate = Callable[[Tensor, Tree, Tensor, Hyper], tuple[Tensor, Tree]]

optimizers: Registry[Callable[..., InnerOptimizer]] = Registry("inner optimizer")
register_optimizer = optimizers.register


class UnsupportedOptimizer(ValueError):
    """An optimiser, or an option of one, that cannot be differentiated faithfully."""


@dataclass(frozen=True)
class InnerOptimizer:
    """An optimiser that autograd can look through.

    Attributes:
        init: ``params -> state``, a tree with one entry per parameter.
        update: ``(grads, state, params, hyper) -> (updates, state)``; the new parameters are ``params + updates``.
        hyper: current hyperparameters; tensors among them are differentiated by every estimator (``grad_optimizer``).
        label: name shown in results.
        options: what is fixed at construction and never differentiated, such as ``nesterov``.
    """

    init: Callable[[Tree], Tree]
    update: Callable[[Tree, Tree, Tree, Hyper], tuple[Tree, Tree]]
    hyper: Hyper
    label: str
    options: dict[str, Any] = field(default_factory=dict)

    def with_hyper(self, **changes: Any) -> InnerOptimizer:
        """The same rule with other hyperparameters.

        Raises:
            UnsupportedOptimizer: for a name the rule does not have.
        """
        unknown = set(changes) - set(self.hyper)
        if unknown:
            raise UnsupportedOptimizer(
                f"{self.label} has no hyperparameter {sorted(unknown)}; it has {sorted(self.hyper)}"
            )
        return replace(self, hyper={**self.hyper, **changes})


def apply_updates(params: Tree, updates: Tree) -> Tree:
    """``params + updates``, leaf by leaf; a None update leaves its parameter as it is."""
    flat, spec = tree_flatten(params)
    steps = tree_flatten(updates)[0]
    return tree_unflatten([p if u is None else p + u for p, u in zip(flat, steps, strict=True)], spec)


def per_leaf(
    init_leaf: LeafInit, update_leaf: LeafUpdate, hyper: Hyper, label: str, options: dict[str, Any]
) -> InnerOptimizer:
    """Lifts a rule for one tensor to a rule for a tree of tensors; per-name hyperparameters are looked up here."""

    def init(params: Tree) -> Tree:
        return [init_leaf(leaf) if differentiable(leaf) else None for leaf in tree_flatten(params)[0]]

    def update(grads: Tree, state: Tree, params: Tree, hyper: Hyper) -> tuple[Tree, Tree]:
        flat, spec = tree_flatten(params)
        slopes = tree_flatten(grads)[0]
        names = list(params) if isinstance(params, dict) and len(params) == len(flat) else [None] * len(flat)
        moved = [
            (None, s) if g is None else update_leaf(g, s, p, _for_parameter(hyper, name))
            for g, s, p, name in zip(slopes, state, flat, names, strict=True)
        ]
        return tree_unflatten([u for u, _ in moved], spec), [s for _, s in moved]

    return InnerOptimizer(init, update, hyper, label, options)


def _for_parameter(hyper: Hyper, name: str | None) -> Hyper:
    if not any(isinstance(value, Mapping) for value in hyper.values()):
        return hyper
    return {key: value[name] if isinstance(value, Mapping) else value for key, value in hyper.items()}


def _is_zero(value: Any) -> bool:
    return not isinstance(value, Tensor) and value == 0


@register_optimizer("sgd")
def sgd(
    lr: Any,
    momentum: Any = 0.0,
    *,
    dampening: Any = 0.0,
    weight_decay: Any = 0.0,
    nesterov: bool = False,
    maximize: bool = False,
) -> InnerOptimizer:
    """Stochastic gradient descent with optional momentum, the rule of ``torch.optim.SGD``.

    ``g <- g + weight_decay * p``; ``b <- momentum * b + (1 - dampening) * g`` (first step: ``b = g``);
    the step is ``-lr * b``, or ``-lr * (g + momentum * b)`` with ``nesterov`` (Sutskever et al., ICML 2013).

    Raises:
        UnsupportedOptimizer: for Nesterov momentum with dampening or without momentum, as torch does.
    """
    if nesterov and (_is_zero(momentum) or not _is_zero(dampening)):
        raise UnsupportedOptimizer("Nesterov momentum needs a momentum and zero dampening")
    sign = -1.0 if maximize else 1.0

    def init_leaf(param: Tensor) -> Tree:
        return None  # the first step sets the buffer to the gradient itself

    def update_leaf(grad: Tensor, buffer: Leaf, param: Tensor, hyper: Hyper) -> tuple[Tensor, Leaf]:
        grad = sign * grad if maximize else grad
        if not _is_zero(hyper["weight_decay"]):
            grad = grad + hyper["weight_decay"] * param
        if _is_zero(hyper["momentum"]):
            return -hyper["lr"] * grad, None
        if buffer is None:
            buffer = grad
        else:
            buffer = hyper["momentum"] * buffer + (1 - hyper["dampening"]) * grad
        step = grad + hyper["momentum"] * buffer if nesterov else buffer
        return -hyper["lr"] * step, buffer

    hyper = {"lr": lr, "momentum": momentum, "dampening": dampening, "weight_decay": weight_decay}
    label = "nesterov" if nesterov else "sgd" if _is_zero(momentum) else "momentum"
    return per_leaf(init_leaf, update_leaf, hyper, label, {"nesterov": nesterov, "maximize": maximize})


@register_optimizer("momentum")
def momentum(lr: Any, momentum: Any = 0.9, **options: Any) -> InnerOptimizer:
    """Heavy-ball momentum (Polyak, 1964), with the options of sgd."""
    return sgd(lr, momentum, **options)


@register_optimizer("nesterov")
def nesterov(lr: Any, momentum: Any = 0.9, **options: Any) -> InnerOptimizer:
    """Nesterov's accelerated gradient in torch's form, with the options of sgd."""
    return sgd(lr, momentum, nesterov=True, **options)


_SGD_OPTIONS = {"lr", "momentum", "dampening", "weight_decay", "nesterov", "maximize"}
_IMPLEMENTATION_OPTIONS = {"foreach", "fused", "capturable", "differentiable", "params", "initial_lr"}


def from_torch(
    optimizer: torch.optim.Optimizer, params: Mapping[str, Tensor], *, resume: bool = True
) -> InnerOptimizer:
    """The differentiable twin of a ``torch.optim`` optimiser.

    Args:
        optimizer: an instance of ``torch.optim.SGD``. Several parameter groups become per-parameter hyperparameters.
        params: the parameters the optimiser holds, by the names used in the unroll.
        resume: start from the optimiser's current momentum buffers (True) or from none.

    Raises:
        UnsupportedOptimizer: for another optimiser class, an unknown option, a parameter without a group, or groups
            that differ in ``nesterov`` or ``maximize``.
    """
    if type(optimizer) is not torch.optim.SGD:
        raise UnsupportedOptimizer(f"no differentiable twin of {type(optimizer).__name__}; supported: SGD")
    groups: dict[str, dict[str, Any]] = {}
    for group in optimizer.param_groups:
        unknown = set(group) - _SGD_OPTIONS - _IMPLEMENTATION_OPTIONS - {"param_names"}
        if unknown:
            raise UnsupportedOptimizer(f"cannot honour the option(s) {sorted(unknown)} of {type(optimizer).__name__}")
        held = {id(p) for p in group["params"]}
        groups.update({name: group for name, p in params.items() if id(p) in held})
    missing = [name for name in params if name not in groups]
    if missing:
        raise UnsupportedOptimizer(f"the optimizer holds no parameter named {missing[0]} ({len(missing)} in all)")
    flags = {(g["nesterov"], g["maximize"]) for g in groups.values()}
    if len(flags) > 1:
        raise UnsupportedOptimizer("parameter groups that differ in 'nesterov' or 'maximize' are not supported")
    (is_nesterov, is_maximize) = flags.pop() if flags else (False, False)

    def gather(key: str) -> Any:
        values = {name: g[key] for name, g in groups.items()}
        distinct = list(values.values())
        return distinct[0] if all(v is distinct[0] or _same(v, distinct[0]) for v in distinct) else values

    hyper = {key: gather(key) for key in ("lr", "momentum", "dampening", "weight_decay")}
    if is_nesterov and any(_is_zero(g["momentum"]) for g in groups.values()):
        raise UnsupportedOptimizer("Nesterov momentum needs a momentum in every parameter group")
    twin = sgd(1.0, 0.9 if is_nesterov else 0.0, nesterov=is_nesterov, maximize=is_maximize)
    buffers = {name: optimizer.state.get(p, {}).get("momentum_buffer") for name, p in params.items()}

    def init(tree: Tree) -> Tree:
        if not resume:
            return [None for _ in tree]
        return [None if buffers[name] is None else buffers[name].detach().clone() for name in tree]

    label = "nesterov" if is_nesterov else "sgd" if _is_zero(hyper["momentum"]) else "momentum"
    return replace(twin, init=init, hyper=hyper, label=label)


def _same(left: Any, right: Any) -> bool:
    if isinstance(left, Tensor) or isinstance(right, Tensor):
        return False
    return math.isclose(left, right, rel_tol=0.0, abs_tol=0.0)


def hyper_tensors(hyper: Hyper) -> Hyper:
    """The tensor-valued hyperparameters: what ``grad_optimizer`` holds a gradient for."""
    kept = {}
    for key, value in hyper.items():
        if isinstance(value, Mapping):
            inner = {name: v for name, v in value.items() if differentiable(v)}
            if inner:
                kept[key] = inner
        elif differentiable(value):
            kept[key] = value
    return kept


def hyper_as_leaves(hyper: Hyper) -> Hyper:
    return tree_map(lambda v: v.detach().requires_grad_() if differentiable(v) else v, dict(hyper))

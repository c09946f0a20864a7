"""Inner optimisers as pairs of pure functions: ``init(params) -> state`` and ``update(grads, state, params, hyper)``.

Every hyperparameter may be a float, a tensor (then it receives a gradient), or a dict with one value per parameter name.
A parameter whose gradient is None took no part in the loss and, as in ``torch.optim``, does not move.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from ..pytree import Tree, differentiable, filled, leaves_of, tree_map
from ..registry import Registry
from .names import UnsupportedOptimizer as UnsupportedOptimizer
from .names import chosen_by_name, no_such
from .values import require_hyper as require_hyper

Hyper = dict[str, Any]
Leaf = Tensor | None
LeafInit = Callable[[Tensor], Tree]
LeafUpdate = Callable[[Tensor, Tree, Tensor, Hyper], "tuple[Tensor | Scaled, Tree]"]

optimizers: Registry[Callable[..., InnerOptimizer]] = Registry("inner optimizer", __package__)
Rule = TypeVar("Rule", bound=Callable[..., "InnerOptimizer"])
Function = TypeVar("Function", bound=Callable[..., Any])


def register_optimizer(name: str) -> Callable[[Rule], Rule]:
    """Decorator that files an inner optimiser under ``name``: a function of options that returns one."""
    return optimizers.register(name)


def closed(function: Function) -> Function:
    """Marks a rule's ``init`` or ``update`` as one that uses no tensor but its arguments, which then need not be watched."""
    vars(function)["closed"] = True
    return function


def is_closed(*functions: Callable[..., Any]) -> bool:
    """Whether all of these are so marked."""
    return all(getattr(function, "closed", False) for function in functions)


@dataclass(frozen=True)
class InnerOptimizer:
    """An optimiser that autograd can look through.

    Attributes:
        init: ``params -> state``, a tree with one entry per parameter.
        update: ``(grads, state, params, hyper) -> (updates, state)``; the new parameters are ``params + updates``.
        hyper: current hyperparameters; tensors among them are differentiated by every estimator (``grad_optimizer``).
        label: name shown in results.
        options: what is fixed at construction and never differentiated, such as ``nesterov``.
        stages: the calls of ``update`` that make one step, each on the same batch with the same noise, from where the one before
            left the parameters: True for one that gets the inner gradient there, False for one that gets None for
            every parameter. Which one a call is, the rule knows by its state.
    """

    init: Callable[[Tree], Tree]
    update: Callable[[Tree, Tree, Tree, Hyper], tuple[Tree, Tree]]
    hyper: Hyper
    label: str
    options: dict[str, Any] = field(default_factory=dict)
    stages: tuple[bool, ...] = (True,)

    def __post_init__(self) -> None:
        if not self.stages or not self.stages[-1]:
            raise UnsupportedOptimizer(
                f"the stages of {self.label} end with one that gets a gradient, not {self.stages}; what comes after it belongs "
                "to its call"
            )

    def with_hyper(self, **changes: Any) -> InnerOptimizer:
        """The same rule with other hyperparameters.

        Raises:
            UnsupportedOptimizer: for a name the rule does not have, one that several of its parts have, of which ``lr_1`` is the
                first's and ``lr_2`` the second's, and a value that none can have.
        """
        changes = chosen_by_name(self.label, self.options, changes)
        for name in changes:
            if name not in self.hyper:
                raise UnsupportedOptimizer(no_such(self.label, name, list(self.hyper)))
        whole = self.options.get("whole", ())  # of transforms, which have rules of their own for their numbers
        own = {key: value for key, value in changes.items() if key not in whole}
        return replace(self, hyper={**self.hyper, **changes, **require_hyper(self.label, own, self.options)})


_NUMBERS = frozenset({int, float})
_OF_ALL = frozenset({int, float, Tensor, torch.nn.Parameter})  # kinds of hyperparameters that are no dict by name


class Scaled(NamedTuple):
    """An update that is ``scale * direction / over``, not yet computed: a parameter takes it in one operation where it can."""

    scale: Any
    direction: Tensor
    over: Tensor | None = None

    def update(self) -> Tensor:
        """The update as a tensor."""
        found: Tensor = self.scale * self.direction
        return found if self.over is None else found / self.over

    def added_to(self, param: Tensor) -> Tensor:
        """``param + update``, as torch.optim rounds it."""
        direction, over = self.direction, self.over
        if not isinstance(self.scale, int | float) or direction.shape != param.shape or direction.dtype != param.dtype:
            return param + _like(self.update(), param)
        if over is None:
            return torch.add(param, direction, alpha=self.scale)
        if over.shape != param.shape or over.dtype != param.dtype:
            return param + _like(self.update(), param)
        return torch.addcdiv(param, direction, over, value=self.scale)


def apply_updates(params: Tree, updates: Tree) -> Tree:
    """``params + updates``, leaf by leaf; a None update leaves its parameter as it is. Types and shapes are the parameters'."""
    pairs = zip(leaves_of(params), leaves_of(updates), strict=True)
    return filled(params, [_moved(p, u) for p, u in pairs])


def _moved(param: Any, update: Tensor | Scaled | None) -> Any:
    if update is None:
        return param
    return update.added_to(param) if isinstance(update, Scaled) else param + _like(update, param)


def take_step(
    rule: InnerOptimizer, slopes: list[Leaf], state: Tree, params: Tree, hyper: Hyper
) -> tuple[list[Any], Tree]:
    """New parameters in tree order, and the new state: ``rule.update`` and :func:`apply_updates`, in fewer operations if it can.

    Args:
        slopes: gradients in the order of ``params``' leaves; a leaf that can have none stands for itself.
    """
    direct: Callable[..., tuple[list[Any], Tree]] | None = getattr(rule.update, "step", None)
    if direct is not None:
        return direct(slopes, state, params, hyper)
    updates, state = rule.update(filled(params, slopes), state, params, hyper)
    return leaves_of(apply_updates(params, updates)), state


def _like(update: Tensor, param: Tensor) -> Tensor:
    if update.shape != param.shape:
        if update.numel() != param.numel():
            raise UnsupportedOptimizer(
                f"an update of shape {list(update.shape)} for a parameter of shape {list(param.shape)}: a hyperparameter with "
                "entries has the parameter's shape, or one that broadcasts to it"
            )
        update = update.reshape(param.shape)
    return update if update.dtype == param.dtype else update.to(param.dtype)


def require_rule(value: object, where: str) -> InnerOptimizer:
    """The rule that a value is.

    Raises:
        UnsupportedOptimizer: for anything else, with the way to one.
    """
    if isinstance(value, InnerOptimizer):
        return value
    way = "a rule, such as sgd(0.1)"
    if isinstance(value, torch.optim.Optimizer):
        way = "a rule; from_torch(optimizer, params) makes one of a torch.optim optimiser"
    elif any(value is optimizers.get(name) for name in optimizers):
        way = f"a rule; {getattr(value, '__name__', 'it')} makes one when it is called, with a learning rate"
    found = repr(value) if isinstance(value, str) else f"a {type(value).__name__}"
    raise UnsupportedOptimizer(f"{where} is {way}, not {found}")


def per_leaf(
    init_leaf: LeafInit, update_leaf: LeafUpdate, hyper: Hyper, label: str, options: dict[str, Any]
) -> InnerOptimizer:
    """Lifts a rule for one tensor to a rule for a tree of tensors; per-name hyperparameters are looked up here."""
    hyper = require_hyper(label, hyper, options)

    def init(params: Tree) -> Tree:
        return [init_leaf(leaf) if differentiable(leaf) else None for leaf in leaves_of(params)]

    def directions(
        slopes: list[Leaf], state: Tree, params: Tree, flat: list[Any], hyper: Hyper
    ) -> list[tuple[Tensor | Scaled | None, Tree]]:
        return [
            (None, s) if g is None or not differentiable(p) else update_leaf(g, s, p, h)
            for g, s, p, h in zip(slopes, state, flat, hyper_of_each(label, hyper, params, flat), strict=True)
        ]

    def update(grads: Tree, state: Tree, params: Tree, hyper: Hyper) -> tuple[Tree, Tree]:
        moved = directions(leaves_of(grads), state, params, leaves_of(params), hyper)
        return filled(params, [u.update() if isinstance(u, Scaled) else u for u, _ in moved]), [s for _, s in moved]

    def step(slopes: list[Leaf], state: Tree, params: Tree, hyper: Hyper) -> tuple[list[Any], Tree]:
        flat = leaves_of(params)
        moved = directions(slopes, state, params, flat, hyper)
        return [_moved(p, u) for p, (u, _) in zip(flat, moved, strict=True)], [s for _, s in moved]

    vars(update)["step"] = step
    if all(getattr(part, "__module__", "").startswith(f"{__package__}.") for part in (init_leaf, update_leaf)):
        init, update = closed(init), closed(update)
    return InnerOptimizer(init, update, hyper, label, options)


def hyper_of_each(label: str, hyper: Hyper, params: Tree, flat: Sequence[Any]) -> Iterable[Hyper]:
    """The hyperparameters of every leaf, in tree order.

    Raises:
        UnsupportedOptimizer: for names that the parameters have not, and a tensor of a shape that says nothing about a parameter.
    """
    values = hyper.values()
    if _OF_ALL.issuperset(map(type, values)):
        if not any(type(value) not in _NUMBERS and value.ndim for value in values):
            return itertools.repeat(hyper, len(flat))
        each: Iterable[Hyper] = itertools.repeat(hyper, len(flat))
    elif any(isinstance(value, Mapping) for value in values):
        named = isinstance(params, dict) and len(params) == len(flat)
        each = [_for_parameter(hyper, name) for name in (params if named else [None] * len(flat))]
    else:
        each = itertools.repeat(hyper, len(flat))
    return [_fitting(label, own, p) for own, p in zip(each, flat, strict=True)]


def _fitting(label: str, hyper: Hyper, param: Any) -> Hyper:
    for key, value in hyper.items():
        if not isinstance(value, Tensor) or not differentiable(param) or value.numel() == 1:
            continue
        sizes = zip(value.shape, param.shape, strict=False)
        if value.ndim != param.ndim or any(own not in (1, whole) for own, whole in sizes):
            raise UnsupportedOptimizer(
                f"{label}: {key} has shape {list(value.shape)} and a parameter {list(param.shape)}; give one number, a tensor of "
                f"the parameter's shape or with 1 in its place (in a dict by parameter name), or per_step(rule, {key}=[...]) for "
                "one value per step"
            )
    return hyper


def _for_parameter(hyper: Hyper, name: str | None) -> Hyper:
    if name is None:
        raise UnsupportedOptimizer("hyperparameters by name need parameters as one flat dict of tensors")
    for key, value in hyper.items():
        if isinstance(value, Mapping) and name not in value:
            raise UnsupportedOptimizer(
                f"{key} has no value for the parameter '{name}'; it has {', '.join(list(value)[:5])}"
            )
    return {key: value[name] if isinstance(value, Mapping) else value for key, value in hyper.items()}


def is_zero(value: Any) -> bool:
    """Whether a hyperparameter is switched off for good: the number 0, not a tensor that may be learned away from 0."""
    return value == 0 if isinstance(value, int | float) else not isinstance(value, Tensor | Mapping) and value == 0


def root(x: Tensor) -> Tensor:
    """Square root whose derivative at 0 is 0; at 0 it is the root of the smallest normal number, 1e-19 in float32.

    In ``g / (sqrt(v) + eps)`` with ``v`` a mean of ``g**2`` the root's infinite slope at 0 meets a factor 0 and gives NaN;
    the quotient itself is differentiable there, with slope ``1 / eps``, and this definition yields it.
    """
    if x.dtype == torch.float16:  # whose smallest normal number has a root of 0.008
        positive = x > 0
        return torch.where(positive, torch.where(positive, x, 1.0).sqrt(), 0.0)
    found: Tensor = x.clamp_min(torch.finfo(x.dtype).tiny).sqrt()
    return found


def blend(old: Tensor, new: Tensor, kept: Any) -> Tensor:
    """``kept * old + (1 - kept) * new``; in one operation where the factor is a number and not learned."""
    if not isinstance(kept, int | float):
        found: Tensor = kept * old + (1 - kept) * new
        return found
    return torch.lerp(old, new, 1 - kept)


def plus(a: Tensor, scale: Any, b: Tensor) -> Tensor:
    """``a + scale * b``; in one operation where the scale is a number and not learned."""
    return torch.add(a, b, alpha=scale) if isinstance(scale, int | float) else a + scale * b


def decayed(grad: Tensor, param: Tensor, hyper: Hyper, maximize: bool) -> Tensor:
    """The gradient to descend along: negated to maximize, with L2 weight decay added, as every torch.optim rule begins."""
    grad = -grad if maximize else grad
    return grad if is_zero(hyper["weight_decay"]) else plus(grad, hyper["weight_decay"], param)


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
    leaves: Hyper = tree_map(lambda v: v.detach().requires_grad_() if differentiable(v) else v, dict(hyper))
    return leaves

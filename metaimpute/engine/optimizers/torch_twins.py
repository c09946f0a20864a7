"""The differentiable twin of a running ``torch.optim`` optimiser, state and parameter groups included."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..pytree import Tree
from .adagrad import adagrad
from .adam import adam
from .base import Hyper, InnerOptimizer, UnsupportedOptimizer, closed, is_zero
from .rmsprop import rmsprop
from .sgd import sgd

IMPLEMENTATION_OPTIONS = {"foreach", "fused", "capturable", "differentiable", "params", "param_names", "initial_lr"}
State = dict[str, Any]


@dataclass(frozen=True)
class Twin:
    """How one torch class maps to one of our rules.

    Attributes:
        values: our hyperparameters from a parameter group. flags: options that must agree over groups. build: our rule
            from the flags and the hyperparameters. state: our per-parameter state from torch's, or None where it has none.
    """

    values: Callable[[dict[str, Any]], Hyper]
    flags: tuple[str, ...]
    build: Callable[[dict[str, Any], Hyper], InnerOptimizer]
    state: Callable[[State, Tensor, dict[str, Any]], Tree]
    keys: frozenset[str]


def _pick(*keys: str) -> Callable[[dict[str, Any]], Hyper]:
    return lambda group: {key: group[key] for key in keys}


def _adam_values(group: dict[str, Any]) -> Hyper:
    return {
        "lr": group["lr"],
        "beta1": group["betas"][0],
        "beta2": group["betas"][1],
        "eps": group["eps"],
        "eps_root": 0.0,
        "weight_decay": group["weight_decay"],
    }


def _sgd(flags: dict[str, Any], hyper: Hyper) -> InnerOptimizer:
    moments = hyper["momentum"].values() if isinstance(hyper["momentum"], Mapping) else [hyper["momentum"]]
    if flags["nesterov"] and any(is_zero(m) for m in moments):
        raise UnsupportedOptimizer("Nesterov momentum needs a momentum in every parameter group")
    rule = sgd(1.0, 0.9 if flags["nesterov"] else 0.0, nesterov=flags["nesterov"], maximize=flags["maximize"])
    label = "nesterov" if flags["nesterov"] else "sgd" if is_zero(hyper["momentum"]) else "momentum"
    return replace(rule, label=label)


def _adam(flags: dict[str, Any], hyper: Hyper) -> InnerOptimizer:
    return adam(amsgrad=flags["amsgrad"], maximize=flags["maximize"], decoupled=flags["decoupled_weight_decay"])


def _rmsprop(flags: dict[str, Any], hyper: Hyper) -> InnerOptimizer:
    return rmsprop(momentum=hyper["momentum"], centered=flags["centered"], maximize=flags["maximize"])


def _adagrad(flags: dict[str, Any], hyper: Hyper) -> InnerOptimizer:
    return adagrad(initial_accumulator_value=flags["initial_accumulator_value"], maximize=flags["maximize"])


def _copy(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else value


def _count(state: State) -> int:
    return int(state["step"])


def _sgd_state(state: State, param: Tensor, flags: dict[str, Any]) -> Tree:
    return _copy(state.get("momentum_buffer"))


def _adam_state(state: State, param: Tensor, flags: dict[str, Any]) -> Tree:
    if not state:
        return None
    names = ["exp_avg", "exp_avg_sq", *(["max_exp_avg_sq"] if flags["amsgrad"] else [])]
    return [_count(state), *(_copy(state[name]) for name in names)]


def _rmsprop_state(state: State, param: Tensor, flags: dict[str, Any]) -> Tree:
    if not state:
        return None
    return {
        "square": _copy(state["square_avg"]),
        "mean": _copy(state.get("grad_avg")),
        "buffer": _copy(state.get("momentum_buffer")),
    }


def _adagrad_state(state: State, param: Tensor, flags: dict[str, Any]) -> Tree:
    return [_count(state), _copy(state["sum"])] if state else None


_ADAM = Twin(
    _adam_values,
    ("amsgrad", "maximize", "decoupled_weight_decay"),
    _adam,
    _adam_state,
    frozenset({"lr", "betas", "eps", "weight_decay"}),
)
_RMSPROP_KEYS = ("lr", "alpha", "eps", "weight_decay", "momentum")
_SGD_KEYS = ("lr", "momentum", "dampening", "weight_decay")
_ADAGRAD_KEYS = ("lr", "lr_decay", "eps", "weight_decay")
TWINS: dict[type[torch.optim.Optimizer], Twin] = {
    torch.optim.SGD: Twin(_pick(*_SGD_KEYS), ("nesterov", "maximize"), _sgd, _sgd_state, frozenset(_SGD_KEYS)),
    torch.optim.Adam: _ADAM,
    torch.optim.AdamW: _ADAM,
    torch.optim.RMSprop: Twin(
        lambda group: {**_pick(*_RMSPROP_KEYS)(group), "eps_root": 0.0},
        ("centered", "maximize"),
        _rmsprop,
        _rmsprop_state,
        frozenset(_RMSPROP_KEYS),
    ),
    torch.optim.Adagrad: Twin(
        lambda group: {**_pick(*_ADAGRAD_KEYS)(group), "eps_root": 0.0},
        ("initial_accumulator_value", "maximize"),
        _adagrad,
        _adagrad_state,
        frozenset(_ADAGRAD_KEYS),
    ),
}


def from_torch(
    optimizer: torch.optim.Optimizer, params: Mapping[str, Tensor], *, resume: bool = True
) -> InnerOptimizer:
    """The differentiable twin of a ``torch.optim`` optimiser.

    Args:
        optimizer: an instance of SGD, Adam, AdamW, RMSprop or Adagrad. Several parameter groups become per-parameter
            hyperparameters; a tensor learning rate is differentiated.
        params: the parameters the optimiser holds, by the names used in the unroll.
        resume: start from the optimiser's current state (True) or from none.

    Raises:
        UnsupportedOptimizer: for another optimiser class, an option it does not know, step hooks, a parameter without a
            group, or groups that differ in an option that is not a number (``nesterov``, ``amsgrad``, ``maximize``, ...).
    """
    twin, kind = TWINS.get(type(optimizer)), type(optimizer).__name__
    if twin is None:
        supported = ", ".join(cls.__name__ for cls in TWINS)
        raise UnsupportedOptimizer(f"no differentiable twin of {kind}; supported: {supported}")
    if optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks:
        raise UnsupportedOptimizer(f"cannot honour the step hooks registered on this {kind}")
    groups: dict[str, dict[str, Any]] = {}
    for group in optimizer.param_groups:
        unknown = set(group) - twin.keys - set(twin.flags) - IMPLEMENTATION_OPTIONS
        if unknown:
            raise UnsupportedOptimizer(f"cannot honour the option(s) {sorted(unknown)} of {kind}")
        held = {id(p) for p in group["params"]}
        groups.update({name: group for name, p in params.items() if id(p) in held})
    missing = [name for name in params if name not in groups]
    if missing:
        raise UnsupportedOptimizer(f"the optimizer holds no parameter named {missing[0]} ({len(missing)} in all)")
    flags: dict[str, Any] = {}
    for flag in twin.flags:
        found = {g.get(flag, 0.0 if flag == "initial_accumulator_value" else False) for g in groups.values()}
        if len(found) > 1:
            raise UnsupportedOptimizer(f"parameter groups that differ in '{flag}' are not supported")
        flags[flag] = found.pop()
    values = {name: twin.values(group) for name, group in groups.items()}
    hyper = {key: _gather({name: v[key] for name, v in values.items()}) for key in next(iter(values.values()))}
    rule = twin.build(flags, hyper)
    kept = {name: twin.state(optimizer.state.get(p, {}), p, flags) for name, p in params.items()}

    def init(tree: Tree) -> Tree:
        fresh = rule.init(tree)
        if not resume:
            return fresh
        return [new if kept[name] is None else _fork(kept[name]) for name, new in zip(tree, fresh, strict=True)]

    return replace(rule, init=closed(init), hyper=hyper)


def _fork(state: Tree) -> Tree:
    return torch.utils._pytree.tree_map(_copy, state)


def _gather(values: dict[str, Any]) -> Any:
    """One value where all parameters share it, else one per name."""
    distinct = list(values.values())
    first = distinct[0]

    def same(value: Any) -> bool:
        return value is first or (not isinstance(value, Tensor) and not isinstance(first, Tensor) and value == first)

    return first if all(map(same, distinct)) else values

"""The differentiable twin of a running ``torch.optim`` optimiser, state and parameter groups included."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..pytree import Tree
from .adagrad import adagrad
from .adam import adam
from .base import Hyper, InnerOptimizer, UnsupportedOptimizer, closed, is_zero
from .masks import Named, partition
from .per_step import per_step
from .rmsprop import rmsprop
from .sgd import sgd
from .twin import State, Twin, copied, count, pick
from .twin_adaptive import ADAPTIVE
from .twin_schedule import Groups, coming_groups
from .values import require_hyper

IMPLEMENTATION_OPTIONS = {
    "foreach",
    "fused",
    "capturable",
    "differentiable",
    "params",
    "param_names",
    "name",
    "initial_lr",
}


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


def _sgd_state(state: State, param: Tensor, flags: dict[str, Any]) -> Tree:
    return copied(state.get("momentum_buffer"))


def _adam_state(state: State, param: Tensor, flags: dict[str, Any]) -> Tree:
    if not state:
        return None
    names = ["exp_avg", "exp_avg_sq", *(["max_exp_avg_sq"] if flags["amsgrad"] else [])]
    return [count(state), *(copied(state[name]) for name in names)]


def _rmsprop_state(state: State, param: Tensor, flags: dict[str, Any]) -> Tree:
    if not state:
        return None
    return {
        "square": copied(state["square_avg"]),
        "mean": copied(state.get("grad_avg")),
        "buffer": copied(state.get("momentum_buffer")),
    }


def _adagrad_state(state: State, param: Tensor, flags: dict[str, Any]) -> Tree:
    return [count(state), copied(state["sum"])] if state else None


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
    torch.optim.SGD: Twin(pick(*_SGD_KEYS), ("nesterov", "maximize"), _sgd, _sgd_state, frozenset(_SGD_KEYS)),
    torch.optim.Adam: _ADAM,
    torch.optim.AdamW: _ADAM,
    torch.optim.RMSprop: Twin(
        lambda group: {**pick(*_RMSPROP_KEYS)(group), "eps_root": 0.0},
        ("centered", "maximize"),
        _rmsprop,
        _rmsprop_state,
        frozenset(_RMSPROP_KEYS),
    ),
    torch.optim.Adagrad: Twin(
        lambda group: {**pick(*_ADAGRAD_KEYS)(group), "eps_root": 0.0},
        ("initial_accumulator_value", "maximize"),
        _adagrad,
        _adagrad_state,
        frozenset(_ADAGRAD_KEYS),
    ),
    **ADAPTIVE,
}
_SIGNED = frozenset({"beta2_decay", "ns_a", "ns_b", "ns_c"})
SCHEDULED = {
    "max_lr",
    "min_lr",
    "base_lr",
    "max_momentum",
    "min_momentum",
    "base_momentum",
    "swa_lr",
}  # what schedulers note


def from_torch(
    optimizer: torch.optim.Optimizer | Sequence[torch.optim.Optimizer],
    params: Mapping[str, Tensor] | None = None,
    *,
    resume: bool = True,
    scheduler: Any = None,
    steps: int | None = None,
) -> InnerOptimizer:
    """The differentiable twin of a ``torch.optim`` optimiser.

    Args:
        optimizer: an instance of SGD, Adam, AdamW, NAdam, RAdam, Adamax, Adadelta, Adafactor, Adagrad, RMSprop or Muon, or a
            list of several that share the parameters among them (Muon for matrices and AdamW for the rest): then a
            :func:`partition`. Several parameter groups become per-parameter hyperparameters; a tensor learning rate is
            differentiated.
        params: the parameters the optimiser holds, by the names used in the unroll. None: by the names it was given them with
            (``SGD(net.named_parameters())``).
        resume: start from the optimiser's current state (True) or from none.
        scheduler: a scheduler of the optimiser (OneCycleLR, CyclicLR, SWALR, any that needs no metric; for a list of optimisers a
            list, with None where there is none). What it will set in the next ``steps`` steps, with its ``step()`` after each,
            becomes the hyperparameters :func:`per_step`, as numbers. The scheduler itself takes no step.

    Raises:
        UnsupportedOptimizer: for another optimiser class, an option it does not know, step hooks, a parameter without a
            group, groups that differ in an option that is not a number (``nesterov``, ``amsgrad``, ``maximize``, ...), and a
            scheduler that cannot be asked.
    """
    if not isinstance(optimizer, torch.optim.Optimizer):
        return _several(list(optimizer), params, resume, scheduler, steps)
    return _one(optimizer, params, resume, scheduler, steps)


def as_it_stands(
    optimizer: torch.optim.Optimizer | Sequence[torch.optim.Optimizer], params: Mapping[str, Tensor], resume: bool
) -> InnerOptimizer:
    """The twin with the hyperparameters of this moment, for one who asks again at every step and so sees what schedulers set."""
    if not isinstance(optimizer, torch.optim.Optimizer):
        return _several(list(optimizer), params, resume, None, None, asked_again=True)
    return _one(optimizer, params, resume, None, None, asked_again=True)


def _one(
    optimizer: torch.optim.Optimizer,
    params: Mapping[str, Tensor] | None,
    resume: bool,
    scheduler: Any,
    steps: int | None,
    asked_again: bool = False,
) -> InnerOptimizer:
    twin, kind = TWINS.get(type(optimizer)), type(optimizer).__name__
    if twin is None:
        supported = ", ".join(cls.__name__ for cls in TWINS)
        raise UnsupportedOptimizer(
            f"no differentiable twin of {kind}; supported: {supported}; per_leaf(...) makes a rule of your own"
        )
    if optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks:
        raise UnsupportedOptimizer(
            f"cannot honour the step hooks registered on this {kind}; remove them, or write the rule with per_leaf(...)"
        )
    params = _named(optimizer) if params is None else params
    ahead = None if scheduler is None else coming_groups(optimizer, scheduler, steps)  # type: ignore[arg-type]  # it says so
    numbers: dict[str, int] = {}
    for number, group in enumerate(optimizer.param_groups):
        _require_known(group, twin, kind, asked_again or scheduler is not None)
        _require_tuples(group, kind)
        held = {id(p) for p in group["params"]}
        numbers.update({name: number for name, p in params.items() if id(p) in held})
    missing = [name for name in params if name not in numbers]
    if missing:
        raise UnsupportedOptimizer(f"the optimizer holds no parameter named {missing[0]} ({len(missing)} in all)")
    groups = {name: optimizer.param_groups[number] for name, number in numbers.items()}
    flags: dict[str, Any] = {}
    for flag in twin.flags:
        found = {g.get(flag, 0.0 if flag == "initial_accumulator_value" else False) for g in groups.values()}
        if len(found) > 1:
            raise UnsupportedOptimizer(
                f"parameter groups that differ in '{flag}' are not supported; make an optimizer for each and pass a list of them"
            )
        flags[flag] = found.pop()
    values = {name: twin.values(group) for name, group in groups.items()}
    hyper = {key: _gather({name: v[key] for name, v in values.items()}) for key in next(iter(values.values()))}
    rule = twin.build(flags, require_hyper(kind, hyper, {"signed": _SIGNED}))
    hyper = require_hyper(rule.label, hyper, rule.options)
    kept = {name: twin.state(optimizer.state.get(p, {}), p, flags) for name, p in params.items()}

    def init(tree: Tree) -> Tree:
        fresh = rule.init(tree)
        if not resume:
            return fresh
        return [new if kept[name] is None else _fork(kept[name]) for name, new in zip(tree, fresh, strict=True)]

    made = replace(rule, init=closed(init), hyper=hyper)
    return made if ahead is None else per_step(made, **_changing(twin, ahead, numbers))


def _require_known(group: Mapping[str, Any], twin: Twin, kind: str, scheduled: bool) -> None:
    unknown = set(group) - twin.keys - set(twin.flags) - IMPLEMENTATION_OPTIONS - (SCHEDULED if scheduled else set())
    if unknown and unknown <= SCHEDULED:
        raise UnsupportedOptimizer(
            f"a scheduler moves the hyperparameters of this {kind} (its groups have {sorted(unknown)[0]}); pass it, as "
            "from_torch(optimizer, params, scheduler=scheduler, steps=k)"
        )
    if unknown:
        raise UnsupportedOptimizer(
            f"cannot honour the option(s) {sorted(unknown)} of {kind}; leave them out, or write the rule with per_leaf(...)"
        )


def _require_tuples(group: Mapping[str, Any], kind: str) -> None:
    counts = {"betas": 2, "ns_coefficients": 3, **({"eps": 2} if "beta2_decay" in group else {})}
    for key, length in counts.items():
        if key in group and not (isinstance(group[key], list | tuple) and len(group[key]) == length):
            raise UnsupportedOptimizer(
                f"{kind}: {key} in a parameter group is a tuple of {length} numbers, not {group[key]!r}"
            )


def _changing(twin: Twin, ahead: list[Groups], numbers: Mapping[str, int]) -> dict[str, Any]:
    """Those hyperparameters that change over the coming steps, one list or one per parameter name."""
    tables = [{name: twin.values(groups[number]) for name, number in numbers.items()} for groups in ahead]
    found = {}
    for key in next(iter(tables[0].values())):
        lists = {name: [table[name][key] for table in tables] for name in numbers}
        if any(value != series[0] for series in lists.values() for value in series):
            found[key] = _gather(lists)
    return found


def _named(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Its parameters by the names it was given them with."""
    found: dict[str, Tensor] = {}
    for group in optimizer.param_groups:
        if "param_names" not in group:
            raise UnsupportedOptimizer(
                "this optimizer does not know its parameters' names; pass params, or make it of net.named_parameters()"
            )
        found.update(zip(group["param_names"], group["params"], strict=True))
    return found


def _several(
    optimizers: Sequence[Any],
    params: Mapping[str, Tensor] | None,
    resume: bool,
    scheduler: Any,
    steps: int | None,
    asked_again: bool = False,
) -> InnerOptimizer:
    """A partition of the parameters among the twins of several optimisers."""
    for one in optimizers:
        if not isinstance(one, torch.optim.Optimizer):
            raise UnsupportedOptimizer(
                f"from_torch takes a torch.optim optimizer or a list of them, not a {type(one).__name__}"
            )
    schedulers = (
        [None] * len(optimizers) if scheduler is None else list(scheduler) if isinstance(scheduler, Sequence) else []
    )
    if len(schedulers) != len(optimizers) or not optimizers:
        raise UnsupportedOptimizer(
            f"from_torch was given {len(optimizers)} optimizers and {len(schedulers)} schedulers in lists; give one of each, "
            "with None for an optimizer without"
        )
    parts: list[tuple[Any, InnerOptimizer]] = []
    for one, other in zip(optimizers, schedulers, strict=True):
        held = {id(p) for group in one.param_groups for p in group["params"]}
        own = _named(one) if params is None else {name: p for name, p in params.items() if id(p) in held}
        if not own:
            raise UnsupportedOptimizer(f"this {type(one).__name__} holds none of the parameters; leave it out")
        rule = _one(one, own, resume, other, steps, asked_again)
        parts.append((Named(list(own)), rule))
    return partition(parts)


def _fork(state: Tree) -> Tree:
    return torch.utils._pytree.tree_map(copied, state)


def _gather(values: dict[str, Any]) -> Any:
    """One value where all parameters share it, else one per name."""
    distinct = list(values.values())
    first = distinct[0]

    def same(value: Any) -> bool:
        return value is first or (not isinstance(value, Tensor) and not isinstance(first, Tensor) and value == first)

    return first if all(map(same, distinct)) else values

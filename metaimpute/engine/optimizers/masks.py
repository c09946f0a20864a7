"""Rules and transforms for some parameters alone, chosen by name or by a function of name and tensor."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any, TypeVar

from torch import Tensor

from ..pytree import Tree
from .base import Hyper, InnerOptimizer, UnsupportedOptimizer, closed, is_closed, require_rule
from .names import SEVERAL, several_of
from .stages import require_one_stage
from .transforms import Transform, free_name

Where = str | Sequence[str] | Callable[[str, Tensor], bool]
Part = TypeVar("Part", Transform, InnerOptimizer)


def masked(part: Part, where: Where) -> Part:
    """A transform, or a rule, for those parameters alone that ``where`` names.

    Others keep their gradients (or updates) through a transform, and do not move by a rule.

    Args:
        where: a shell pattern of names, a list of patterns, or a function ``(name, parameter) -> bool``, such as
            ``lambda name, p: p.ndim == 2``.

    Raises:
        UnsupportedOptimizer: for what is neither, for a rule of several stages, and at the first step for a pattern that
            matches nothing and for parameters that are no flat dict.
    """
    if not isinstance(part, Transform):
        require_rule(part, "what masked() is given, where it is no transform,")
        require_one_stage(part, "masked() is given", "mask the rule inside")

    def init(params: Tree) -> Tree:
        return part.init(_sub(params, _chosen(where, params)))

    def update(grads: Tree, state: Tree, params: Tree, hyper: Hyper) -> tuple[Tree, Tree]:
        names = _chosen(where, params)
        found, state = part.update(_sub(grads, names), state, _sub(params, names), hyper)
        others = grads if isinstance(part, Transform) else dict.fromkeys(params)
        return {**others, **found}, state

    if is_closed(part.init, part.update):
        init, update = closed(init), closed(update)
    if isinstance(part, Transform):
        return replace(part, init=init, update=update)
    options = {
        **part.options,
        "linear": False,
        "transforms": (*part.options.get("transforms", ()), "masked"),
        "not_stationary": "masked() holds parameters fixed that the loss depends on",
    }
    return replace(part, init=init, update=update, options=options)


def partition(rules: Mapping[str, InnerOptimizer] | Sequence[tuple[Where, InnerOptimizer]]) -> InnerOptimizer:
    """One rule for some parameters and another for the rest (as ``optax.partition``)::

        partition({"*": adamw(1e-3), "head.*": sgd(0.1)})
        partition([("*", adamw(1e-3)), (lambda name, p: p.ndim == 2, muon(0.02))])

    Of several that match a parameter the last one moves it. Hyperparameters keep their names; one that is taken gets a
    number in the order of the rules, so that the second learning rate is ``lr_2``. Where one is changed by name the first is
    ``lr_1``: a plain ``lr`` is refused unless the others are given too.

    Raises:
        UnsupportedOptimizer: for no rules, one of several stages, rules of which only some maximize, and at the first step
            for a parameter without a rule and parameters that are no flat dict.
    """
    pairs: list[tuple[Where, InnerOptimizer]] = list(rules.items() if isinstance(rules, Mapping) else rules)
    if not pairs:
        raise UnsupportedOptimizer('partition() is given no rules; give at least one, such as {"*": sgd(0.1)}')
    for _, rule in pairs:
        require_one_stage(require_rule(rule, "a rule of a partition"), "a partition has", "put the partition inside")
    parts = [rule for _, rule in pairs]
    if len({bool(rule.options.get("maximize")) for rule in parts}) > 1:
        raise UnsupportedOptimizer("some rules of this partition maximize and others do not; let all do the same")
    hyper: Hyper = {}
    names: list[dict[str, str]] = []
    for rule in parts:
        own = {key: free_name(key, hyper) for key in rule.hyper}
        hyper.update({own[key]: value for key, value in rule.hyper.items()})
        names.append(own)

    def shares(params: Tree) -> list[list[str]]:
        owner = dict.fromkeys(_flat(params), -1)
        for number, (where, _) in enumerate(pairs):
            owner.update(dict.fromkeys(_chosen(where, params), number))
        without = [name for name, number in owner.items() if number < 0 and isinstance(params[name], Tensor)]
        if without:
            raise UnsupportedOptimizer(
                f"no rule of this partition is for the parameter '{without[0]}'; add one for '*'"
            )
        return [[name for name, number in owner.items() if number == mine] for mine in range(len(parts))]

    def init(params: Tree) -> Tree:
        found = shares(params)
        if not all(found):
            _require_use(pairs, params, found)
        return [rule.init(_sub(params, share)) for rule, share in zip(parts, found, strict=True)]

    def update(grads: Tree, state: Tree, params: Tree, hyper: Hyper) -> tuple[Tree, Tree]:
        updates, after = dict.fromkeys(params), []
        for rule, own, share, before in zip(parts, names, shares(params), state, strict=True):
            given = {key: hyper[name] for key, name in own.items()}
            found, following = rule.update(_sub(grads, share), before, _sub(params, share), given)
            updates.update(found)
            after.append(following)
        return updates, after

    if all(is_closed(rule.init, rule.update) for rule in parts):
        init, update = closed(init), closed(update)
    label = "+".join(dict.fromkeys(rule.label for rule in parts))
    said = [f"{rule.label} for {_said(where)}" for where, rule in pairs]
    several = several_of([(of, own, rule.options) for of, own, rule in zip(said, names, parts, strict=True)])
    return InnerOptimizer(init, update, hyper, label, {**_options(parts, names), SEVERAL: several})


def _require_use(pairs: Sequence[tuple[Where, InnerOptimizer]], params: Tree, shares: Sequence[Sequence[str]]) -> None:
    """Raises:
    UnsupportedOptimizer: for a rule whose parameters are all among the more that one later rule takes."""
    chosen = [set(_chosen(where, params)) for where, _ in pairs]
    for number, (where, rule) in enumerate(pairs):
        wider = next((later for later in range(number + 1, len(pairs)) if chosen[number] < chosen[later]), None)
        if chosen[number] and not shares[number] and wider is not None:
            raise UnsupportedOptimizer(
                f"{rule.label} for {_said(where)} moves nothing in this partition: the last rule that matches a parameter moves "
                f"it, and {pairs[wider][1].label} for {_said(pairs[wider][0])} comes later; put the wider one first"
            )


def _said(where: Where) -> str:
    """Which parameters these are, in words."""
    if callable(where):
        names = getattr(where, "names", None)
        return "those that its function chooses" if names is None else _said(names)
    patterns = [where] if isinstance(where, str) else list(where)
    return ", ".join(f"'{pattern}'" for pattern in patterns[:3]) + (", ..." if len(patterns) > 3 else "")


class Named:
    """A choice of parameters by their full names."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names, self._all = list(names), frozenset(names)

    def __call__(self, name: str, param: Tensor) -> bool:
        return name in self._all


def _options(parts: Sequence[InnerOptimizer], names: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    """What the parts have among them, under their new names."""
    kinds = ("whole", "signed", "factors", "per_step", "mixes", "transforms", "steep")
    lists: dict[str, list[Any]] = {key: [] for key in kinds}
    for rule, own in zip(parts, names, strict=True):
        for key, found in lists.items():
            found += [own.get(it, it) if isinstance(it, str) else it for it in rule.options.get(key, ())]
    options: dict[str, Any] = {key: tuple(found) for key, found in lists.items() if found}
    options.update({key: frozenset(options[key]) for key in ("whole", "signed") if key in options})
    options["transforms"] = (*options.get("transforms", ()), "partition")
    options["maximize"] = bool(parts[0].options.get("maximize"))
    options["decoupled"] = any(rule.options.get("decoupled") for rule in parts)
    options["rules"] = tuple(rule.label for rule in parts)
    reasons = [rule.options["not_stationary"] for rule in parts if "not_stationary" in rule.options]
    if reasons or sum("weight_decay" in own for own in names) > 1:
        options["not_stationary"] = reasons[0] if reasons else "this partition has several weight decays"
    return options


def _flat(params: Tree) -> list[str]:
    if not isinstance(params, dict) or any(isinstance(p, dict | list | tuple) for p in params.values()):
        raise UnsupportedOptimizer("masked() and partition() need parameters as one flat dict of tensors")
    return list(params)


def _chosen(where: Where, params: Tree) -> list[str]:
    names = _flat(params)
    if callable(where):
        return [name for name in names if isinstance(params[name], Tensor) and where(name, params[name])]
    patterns = [where] if isinstance(where, str) else list(where)
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise UnsupportedOptimizer(f"no parameter matches '{pattern}'; there are {', '.join(names[:5])}, ...")
    return [name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)]


def _sub(tree: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {name: tree[name] for name in names}

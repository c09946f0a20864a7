"""Hyperparameters that are other numbers at every step, learned or given."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from ..pytree import Tree
from .base import (
    Hyper,
    InnerOptimizer,
    UnsupportedOptimizer,
    closed,
    is_closed,
    require_hyper,
    require_rule,
)
from .names import chosen_by_name, no_such
from .transforms import TOO_SHORT

Values = Tensor | Sequence[Any] | Callable[[int], Any] | Mapping[str, Any]


def per_step(rule: InnerOptimizer, **values: Values) -> InnerOptimizer:
    """A rule some of whose hyperparameters have one value for each step::

        rates = {name: torch.full((k,), 0.1) for name in params}  # one per parameter and step: LSLR of MAML++
        rule = per_step(sgd(0.1, momentum=0.9), lr=rates, momentum=lambda t: min(0.9, 0.1 * t))

    (Learned by hypergradients: Maclaurin et al., ICML 2015; MAML++: Antoniou et al., ICLR 2019.)

    Args:
        values: by the hyperparameter's name (``beta1``, not ``betas``) a tensor ``[steps, ...]``, which then is that
            hyperparameter and receives a gradient of that shape; a list of numbers; a function of the step, from 0; or a
            dict with one of these, or a number, per parameter name. In :meth:`InnerOptimizer.with_hyper` a number or a
            tensor without dimensions is the value of every step.

    Raises:
        UnsupportedOptimizer: for a hyperparameter the rule does not have, a tensor without steps, a list with tensors that
            require a gradient, and before the first step where there are more steps than values.
    """
    rule = require_rule(rule, "what per_step() is given")
    values = chosen_by_name(rule.label, rule.options, values)
    taken = rule.options.get("per_step", ())
    unknown = [key for key in values if key not in rule.hyper or key in taken]
    if unknown:
        known = [key for key in rule.hyper if key not in taken]
        raise UnsupportedOptimizer(f"per_step: {no_such(rule.label, unknown[0], known)}")
    hyper: Hyper = {key: value for key, value in rule.hyper.items() if key not in values}
    lengths: list[int] = []
    fixed: dict[str, Any] = {}
    for key, value in values.items():
        for part in value.values() if isinstance(value, Mapping) else [value]:
            lengths += _lengths(rule, key, part)
        learned, given = _apart(value)
        if learned is not None:
            hyper[key] = learned
        if given is not None:
            fixed[key] = given
    stages = len(rule.stages)

    def init(params: Tree) -> Tree:
        return {"t": 0, "rule": rule.init(params)}

    def update(grads: Tree, state: dict[str, Any], params: Tree, hyper: Hyper) -> tuple[Tree, Tree]:
        step = state["t"] // stages
        now = {**hyper, **{key: _at(_joined(hyper.get(key), fixed.get(key)), step) for key in values}}
        updates, after = rule.update(grads, state["rule"], params, now)
        return updates, {"t": state["t"] + 1, "rule": after}

    if is_closed(rule.init, rule.update):
        init, update = closed(init), update if any(map(callable, _parts(fixed))) else closed(update)
    options = {
        **rule.options,
        "linear": False,
        "factors": (*rule.options.get("factors", ()), *lengths),
        "per_step": (*taken, *values),
        "transforms": (*rule.options.get("transforms", ()), "per_step"),
    }
    if "weight_decay" in values:
        options["not_stationary"] = "this rule's weight decay is another at each step"
    return replace(rule, init=init, update=update, hyper=hyper, options=options)


def _lengths(rule: InnerOptimizer, key: str, value: Any) -> list[int]:
    """How many values there are, where they are counted; checks them."""
    if isinstance(value, Tensor):
        if not value.ndim:
            raise UnsupportedOptimizer(
                f"per_step: {key} is a tensor [steps], not one without dimensions; give that to the rule itself"
            )
        return [len(value)]
    if callable(value):
        return []
    if isinstance(value, Sequence) and not isinstance(value, str):
        for number in value:
            if isinstance(number, Tensor) and number.requires_grad:
                raise UnsupportedOptimizer(
                    f"per_step: the list for {key} holds a tensor that requires a gradient and would get none; pass one tensor "
                    "of all values, such as torch.stack([...])"
                )
            require_hyper(rule.label, {key: number}, rule.options)
        return [len(value)]
    if isinstance(value, int | float):
        require_hyper(rule.label, {key: value}, rule.options)
        return []
    raise UnsupportedOptimizer(
        f"per_step: {key} is a tensor [steps], a list, a function of the step, or a dict with one of them per parameter name, "
        f"not a {type(value).__name__}"
    )


def _apart(value: Any) -> tuple[Any, Any]:
    """What is learned of it, and what is not; None for nothing."""
    if not isinstance(value, Mapping):
        return (value, None) if isinstance(value, Tensor) else (None, value)
    learned = {name: part for name, part in value.items() if isinstance(part, Tensor)}
    given = {name: part for name, part in value.items() if not isinstance(part, Tensor)}
    return learned or None, given or None


def _joined(learned: Any, given: Any) -> Any:
    if isinstance(learned, Mapping) and isinstance(given, Mapping):
        return {**given, **learned}
    return given if learned is None else learned


def _parts(values: Mapping[str, Any]) -> Iterator[Any]:
    for value in values.values():
        yield from value.values() if isinstance(value, Mapping) else [value]


def _at(value: Any, step: Any) -> Any:
    """The value of a step, which is a number, or a tensor in a compiled step, on which nothing may branch."""
    if isinstance(value, Mapping):
        return {name: _at(part, step) for name, part in value.items()}
    if isinstance(value, Tensor):
        if not value.ndim:
            return value
        if isinstance(step, Tensor):
            return value.index_select(0, step.long().reshape(1).to(value.device))[0]
    elif callable(value):
        return value(step)
    elif not isinstance(value, Sequence):
        return value
    elif isinstance(step, Tensor):
        return step.new_tensor(value).take(step.long())
    if step >= len(value):
        raise UnsupportedOptimizer(TOO_SHORT.format(len(value), step + 1))
    return value[step]

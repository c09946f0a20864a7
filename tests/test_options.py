"""Options of optimisers come from their signatures: all can be set from a recipe, and a wrong one is a line with its place."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import torch
from pydantic import Field
from torch import nn

from metaimpute import recipes, register_optimizer, sgd
from metaimpute.engine import optimizers
from metaimpute.recipes.optim import KINDS, NOT_FOR_TRAINING
from metaimpute.recipes.signature import options_of
from metaimpute.recipes.source import RecipeError, flow

RECIPE = Path(__file__).parents[1] / "recipes" / "two_moons.yaml"
OWN = [name for name in optimizers if optimizers.get(name).__module__.startswith("metaimpute.")]


def loaded(*sets: str) -> Any:
    return recipes.load(RECIPE, "sample", sets)


def inner(**options: Any) -> Any:
    return loaded(f"problem.inner={flow(options)}").problem_spec.inner.build()


def other(value: Any, kind: str = "") -> Any:
    """Another value of an option's type."""
    if value == "original":  # of muon's factors
        return "match_rms_adamw"
    if isinstance(value, bool) or value is None:
        return not value
    if isinstance(value, tuple):
        return [0.5 * (entry or 1.0) for entry in value]
    if kind == "int" or value == 1.0:  # a count, and what is at least 1
        return value + 1
    return value / 2 if value else 0.25


def outcome(rule: Any) -> tuple[Any, ...]:
    """What a rule was built with, and where three of its steps end."""
    found, state = {"w": torch.ones(2)}, rule.init({"w": torch.ones(2)})
    for scale in (1.0, 0.1, 0.2):
        update, state = rule.update({"w": scale * torch.tensor([0.3, -0.2])}, state, found, rule.hyper)
        found = {"w": found["w"] + update["w"]}
    return rule.hyper, rule.options, found["w"].tolist()


@pytest.mark.parametrize("name", OWN)
def test_every_option_of_an_inner_optimizer_can_be_set(name: str) -> None:
    parameters = list(inspect.signature(optimizers.get(name)).parameters.values())[1:]
    assert parameters
    for parameter in parameters:
        assert parameter.kind is not parameter.VAR_KEYWORD, "an option that a signature does not name cannot be checked"
        value = other(parameter.default, parameter.annotation)
        needs = {"momentum": 0.9} if parameter.name == "nesterov" else {}
        given = tuple(value) if isinstance(value, list) else value
        expected = optimizers.get(name)(0.1, **{"weight_decay": 0.0, **needs, parameter.name: given})
        found = outcome(inner(optimizer=name, **{**needs, parameter.name: value}))
        assert found == outcome(expected) and found != outcome(inner(optimizer=name, **needs)), parameter.name


@pytest.mark.parametrize("name", KINDS)
def test_every_option_of_a_torch_optimizer_can_be_set(name: str) -> None:
    free = {"foreach", "fused", "lr", "params", *NOT_FOR_TRAINING}
    for parameter in inspect.signature(KINDS[name]).parameters.values():
        if parameter.name in free:
            continue
        value = other(parameter.default)
        sets = [f"train.optimizer={flow({'name': name, parameter.name: value})}"]
        if parameter.name == "dampening":
            sets.append("train.optimizer.nesterov=false")
        optimizer = loaded(*sets).train.optimizer.build(nn.Linear(2, 2))
        found = optimizer.param_groups[0][parameter.name]
        assert list(found) == value if isinstance(value, list) else found == value, parameter.name


def test_what_a_recipe_does_not_set_is_as_before() -> None:
    """Else a run that was begun before would take other steps."""
    assert loaded("problem.inner={optimizer: adamw}").problem_spec.inner.build().hyper["weight_decay"] == 0.0
    assert loaded("problem.inner={optimizer: momentum}").problem_spec.inner.build().hyper["momentum"] == 0.9
    assert loaded("problem.inner={optimizer: sgd, momentum: null}").problem_spec.inner.build().hyper["momentum"] == 0.0
    built = loaded("train.optimizer={name: sgd, betas: [0.5, 0.5]}").train.optimizer.build(nn.Linear(2, 2))
    assert built.defaults["momentum"] == 0.9 and "betas" not in built.defaults


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("problem.inner={optimizer: adam, amsgard: true}", "inner.amsgard: 'adam' has no such option; did you mean 'amsgrad'?"),
        ("problem.inner={optimizer: adam, amsgrad: maybe}", "problem.inner.amsgrad: should be a valid boolean, unable to interpret input, not 'maybe'"),
        ("problem.inner={optimizer: adam, betas: 3}", "problem.inner.betas: should be a valid tuple, not 3"),
        ("problem.inner={optimizer: adam, betas: [0.9, 2]}", "problem.inner.betas.1: should be less than 1, not 2"),
        ("problem.inner={optimizer: sgd, momentum: '{a}'}", "problem.inner.momentum: should be a valid number, unable to parse string as a number, not '{a}'"),
        ("problem.inner.stpes=2", "problem.inner.stpes: 'sgd' has no such option; did you mean 'steps'?"),
        ("problem.inner.betas=[0.9,0.9]", "problem.inner.betas: 'sgd' has no such option; valid keys: clip_norm, "),
        ("problem={inner: {optimizer: sam}, estimator: finite_difference}", "problem.inner.optimizer: 'finite_difference' takes one gradient a step, and a step of sam has 2 stages"),
        ("problem={inner: {optimizer: sam}, estimator: cg}", "problem.inner.optimizer: 'cg' needs a stationary point of the inner loss, and the end of 'sam' is none"),
        ("problem.inner={optimizer: sam, clip_norm: 1.0}", "problem.inner: a chain around sam, whose step has 2 stages, would treat each as a step; put"),
        ("problem.inner={optimizer: muon, adjust_lr_fn: fast}", "problem.inner.adjust_lr_fn: should be 'original', 'match_rms_adamw' or 'spectral_unclamped', not 'fast'"),
        ("problem.inner={optimizer: adafactor, beta2_decay: 0.5}", "problem.inner: adafactor: beta2_decay must be at most 0, not 0.5"),
        ("problem.inner={optimizer: adan, betas: 3}", "problem.inner.optimizer: unknown inner optimizer 'adan'; did you mean 'adam'?"),
        ("problem.inner={optimizer: nesterov, momentum: 0}", "problem.inner: Nesterov momentum needs a momentum"),
        ("train.optimizer.amsgard=true", "train.optimizer.amsgard: 'adam' has no such option; did you mean 'amsgrad'?"),
        ("train.optimizer.eps=[1]", "train.optimizer.eps: should be a valid number, not [1]"),
        ("train.optimizer.eps=.inf", "train.optimizer.eps: should be a finite number, not inf"),
        ("train.optimizer.capturable=true", "train.optimizer.capturable: 'adam' has no such option; valid keys: amsgrad"),
        ("train.optimizer={foreach: true, fused: true}", "train.optimizer: `fused` and `foreach` cannot be `True` together"),
        ("problem.outer={name: sgd, dampening: x}", "problem.outer.dampening: should be a valid number"),
    ],
)  # fmt: skip
def test_a_wrong_option_is_a_line_with_its_place(setting: str, said: str) -> None:
    with pytest.raises(RecipeError) as caught:
        loaded(setting)
    text = str(caught.value)
    assert said in text and text.startswith(("--set ", str(RECIPE))) and "\n" not in text


def test_a_wrong_option_in_a_file_has_its_line(tmp_path: Path) -> None:
    text = "task: {name: two_moons}\nmodel: {name: mlp}\nmethod: {name: uda}\ntrain:\n  optimizer:\n    lr: 0.1\n    amsgrad: 7\n"
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(RecipeError, match=r"r\.yaml:7: train\.optimizer\.amsgrad: should be a valid boolean"):
        recipes.load(tmp_path / "r.yaml", "sample")


# of a plugin -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def registered() -> Iterator[Callable[[Any], Any]]:
    yield register_optimizer("mine")
    optimizers._entries.pop("mine", None)


def test_a_plugins_options_are_checked_as_it_has_annotated_them(registered: Any) -> None:
    seen: dict[str, Any] = {}

    def mine(
        lr: Any, rho: Annotated[float, Field(gt=0)] = 0.05, kind: Literal["a", "b"] = "a", eps: str = "by hand"
    ) -> Any:
        seen.update(rho=rho, kind=kind, eps=eps)
        return sgd(lr)

    registered(mine)
    inner(optimizer="mine", rho=0.2, kind="b", eps="x")
    assert seen == {"rho": 0.2, "kind": "b", "eps": "x"}
    for key, value, said in (
        ("rho", 0, "inner.rho: should be greater than 0, not 0"),
        ("kind", "c", "inner.kind: should be 'a' or 'b', not 'c'"),
        ("rhoo", 1, "inner.rhoo: 'mine' has no such option; did you mean 'rho'?"),
        ("weight_decay", 0.1, "inner.weight_decay: 'mine' has no such option; valid keys: clip_norm"),
    ):
        with pytest.raises(RecipeError) as caught:
            inner(optimizer="mine", **{key: value})
        assert said in str(caught.value)


def test_without_annotations_the_default_says_the_type(registered: Any) -> None:
    def mine(lr, rho=0.05, many=3, on=False, word="x", pair=(1.0, 2), anything=None, needed=None):  # type: ignore[no-untyped-def]
        return sgd(lr)

    registered(mine)
    types = options_of(mine)
    assert list(types) == ["rho", "many", "on", "word", "pair", "anything", "needed"]
    inner(optimizer="mine", rho=1, many=0.5, on=True, word="y", pair=[1, 2], anything={"a": 1})
    for key, value in (("rho", "x"), ("on", 3), ("word", 1), ("pair", [1]), ("rho", float("inf"))):
        with pytest.raises(RecipeError, match=rf"problem\.inner\.{key}"):
            inner(optimizer="mine", **{key: value})


def test_a_factory_that_takes_anything_gets_it_and_its_own_refusal_is_a_line(registered: Any) -> None:
    def mine(lr: Any, **options: Any) -> Any:
        return sgd(lr, **options)

    registered(mine)
    assert inner(optimizer="mine", momentum=0.5).hyper["momentum"] == 0.5
    with pytest.raises(RecipeError, match="problem.inner: .*unexpected keyword argument 'rho'"):
        inner(optimizer="mine", rho=0.5)

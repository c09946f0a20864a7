"""Rules and transforms for some parameters, partitions, a function of one's own on the gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from metaimpute import engine
from metaimpute.engine import (
    CannotDifferentiate,
    EstimatorError,
    UnsupportedOptimizer,
    adafactor,
    adam,
    adamw,
    after_training,
    chain,
    clip,
    clip_by_global_norm,
    from_torch,
    gradient_callback,
    masked,
    parameter_groups,
    partition,
    per_step,
    scheduled,
    sgd,
    unroll,
)

from .two_leaves import START, C, T, assert_same, end, estimate, inner, outer

pytestmark = pytest.mark.usefixtures("float64")


def test_a_masked_rule_moves_what_it_is_for_as_if_it_were_alone() -> None:
    for where in ("a", ["a"], lambda name, p: p.ndim == 1):
        found = end(masked(adam(0.1), where))
        alone = unroll(
            lambda th, c, b: inner({**START, **th}, c, b),
            {"a": START["a"]},
            C,
            [None],
            adam(0.1),
            3,
            differentiable=False,
        )
        assert torch.equal(found["b"], START["b"])
        assert_same({"a": found["a"]}, alone.params)


def test_a_masked_transform_leaves_others_gradients_as_they_are() -> None:
    rule = chain(masked(clip(0.01), "a"), masked(clip_by_global_norm(0.1), "b"), sgd(0.1))
    assert {"clip_value", "clip_norm"} <= set(rule.hyper)
    at = {name: p.clone().requires_grad_() for name, p in START.items()}
    a, b = torch.autograd.grad(inner(at, C, None), list(at.values()))
    found = end(rule, 1)
    torch.testing.assert_close(found["a"], START["a"] - 0.1 * a.clamp(-0.01, 0.01), rtol=1e-13, atol=0)
    torch.testing.assert_close(found["b"], START["b"] - 0.1 * b * 0.1 / (b.norm() + 1e-6), rtol=1e-12, atol=0)


@pytest.mark.parametrize("estimator", ["exact", "mixed", "forward", "head"])
def test_a_partition_is_its_rules_side_by_side_and_all_is_learned(estimator: str) -> None:
    T_ = T
    rule = partition([("*", sgd(T_(0.01), T_(0.5))), (lambda name, p: p.ndim == 2, adamw(T_(0.1), eps=T_(0.1)))])
    assert rule.hyper["lr_2"] == 0.1 and rule.label == "momentum+adamw"
    start = {name: p.clone().requires_grad_() for name, p in START.items()}
    stock = [torch.optim.SGD([start["a"]], lr=0.01, momentum=0.5), torch.optim.AdamW([start["b"]], lr=0.1, eps=0.1)]
    for _ in range(3):
        for one in stock:
            one.zero_grad()
        inner(start, C, None).backward()
        for one in stock:
            one.step()
    assert_same(end(rule), {name: p.detach() for name, p in start.items()})
    how: Any = estimator
    if estimator == "head":
        from metaimpute.engine import get_estimator

        how = get_estimator("head", parameters=("a", "b"))
    found = estimate(rule, how, wrt_start=False).grad_optimizer
    for key in ("lr", "momentum", "lr_2", "eps"):
        asked = "lr_1" if key == "lr" else key
        ends = [outer(end(rule.with_hyper(**{asked: rule.hyper[key] + s})), C, None) for s in (1e-6, -1e-6)]
        assert float(found[key]) == pytest.approx(float(ends[0] - ends[1]) / 2e-6, rel=1e-6) and found[key] != 0


def test_the_last_rule_that_matches_moves_a_parameter() -> None:
    assert_same(end(partition({"*": sgd(0.0), "a": sgd(0.01)})), end(masked(sgd(0.01), "a")))
    scheduled_parts = partition({"a": scheduled(sgd(0.01), [1.0, 1.0]), "b": sgd(0.1)})
    with pytest.raises(UnsupportedOptimizer, match="the schedule has 2 values, but step 3"):
        end(scheduled_parts)
    changed = parameter_groups(partition({"a": sgd(0.01), "b": adam(0.1)}), START, {"b": {"lr_2": 0.0}})
    assert torch.equal(end(changed)["b"], START["b"])


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: masked("sgd", "a"), "what masked.. is given, where it is no transform, is a rule, .*not 'sgd'"),  # type: ignore[type-var]
        (lambda: end(masked(sgd(0.1), "c*")), r"no parameter matches 'c\*'; there are a, b"),
        (lambda: end(partition({"a": sgd(0.1)})), "no rule of this partition is for the parameter 'b'; add one for '\\*'"),
        (lambda: partition({}), r'give at least one, such as \{"\*": sgd\(0.1\)\}'),
        (lambda: partition({"*": sgd}), "sgd makes one when it is called"),  # type: ignore[dict-item]
        (lambda: partition({"a": sgd(0.1), "b": sgd(0.1, maximize=True)}), "let all do the same"),
        (lambda: unroll(lambda th, c, b: th["x"]["w"].sum(), {"x": {"w": torch.ones(1)}}, None, [None], masked(sgd(0.1), "x"), 1),
         "need parameters as one flat dict"),
        (lambda: partition({"a": sgd(0.1), "b": adam(0.1)}).with_hyper(lr_3=0.1), "has no hyperparameter"),
        (lambda: partition({"a": adafactor(), "b": adafactor()}).with_hyper(lr_1=-0.1, beta2_decay_2=-0.3), "lr must be .* at least 0"),
    ],
)  # fmt: skip
def test_parts_that_do_not_fit_are_refused(make: Any, said: str) -> None:
    with pytest.raises(UnsupportedOptimizer, match=said):
        make()


def test_the_higher_backend_does_not_move_what_is_masked() -> None:
    for rule in (masked(sgd(0.1), "a"), partition({"*": sgd(0.1)}), per_step(sgd(0.1), lr=[0.1] * 3)):
        with pytest.raises(EstimatorError, match="backend 'higher'"):
            estimate(rule, backend="higher")


@pytest.mark.parametrize("estimator", ["exact", "mixed", "forward"])
def test_a_gradient_callback_is_differentiated(estimator: str) -> None:
    def centred(grads: Any) -> Any:
        return {name: g - 0.5 * g.mean() * g.square().sum() for name, g in grads.items()}

    rule = chain(gradient_callback(centred), sgd(T(0.01)))
    found = estimate(rule, estimator, wrt_start=False)
    step = 1e-6 * T([1.0, 0.0])
    ends = [
        outer(unroll(inner, START, c, [None], rule, 3, differentiable=False).params, c, None)
        for c in (C + step, C - step)
    ]
    assert float(found.grad_c[0]) == pytest.approx(float(ends[0] - ends[1]) / 2e-6, rel=1e-6)
    assert not torch.allclose(end(rule)["a"], end(sgd(0.01))["a"])


def test_a_gradient_callback_may_only_look() -> None:
    seen: list[float] = []

    def look(grads: Any) -> None:
        seen.append(float(grads["a"].norm()))

    assert_same(end(chain(gradient_callback(look), sgd(0.01))), end(sgd(0.01)))
    assert len(seen) == 3 and seen[0] != seen[1]


def test_a_gradient_callback_that_returns_something_else_is_refused() -> None:
    for wrong in (lambda g: {"a": g["a"]}, lambda g: {**g, "a": g["a"][:1]}, lambda g: 3):
        with pytest.raises(UnsupportedOptimizer, match="return tensors of the same shapes"):
            end(chain(gradient_callback(wrong), sgd(0.01)))
    outside = T(1.0, requires_grad=True)
    rule = chain(gradient_callback(lambda g: {name: slope * outside for name, slope in g.items()}), sgd(0.01))
    with pytest.raises(CannotDifferentiate, match="none of its hyperparameters"):
        after_training(inner, outer, START, C.clone().requires_grad_(), optimizer=rule, steps=2)


TWO = partition({"*": sgd(0.01), "b": adam(0.1)})


@pytest.mark.parametrize(
    "change",
    [
        lambda: TWO.with_hyper(lr=0.0),
        lambda: chain(clip(1.0), TWO).with_hyper(lr=0.0),
        lambda: masked(TWO, "*").with_hyper(lr=0.0),
        lambda: per_step(TWO, lr=[0.0] * 3),
        lambda: parameter_groups(TWO, START, {"b": {"lr": 0.0}}),
    ],
    ids=["with_hyper", "chain", "masked", "per_step", "parameter_groups"],
)
def test_a_name_that_several_rules_have_is_refused_with_theirs(change: Any) -> None:
    with pytest.raises(UnsupportedOptimizer, match=r"lr_1 \(sgd for '\*'.*\) and lr_2 \(adam for 'b'.*\)"):
        change()


def test_the_numbered_names_reach_each_and_all_together_may_be_plain() -> None:
    assert TWO.with_hyper(lr_1=0.5).hyper["lr"] == 0.5 and TWO.with_hyper(lr_2=0.5).hyper["lr_2"] == 0.5
    both = TWO.with_hyper(lr=0.5, lr_2=0.25).hyper
    assert (both["lr"], both["lr_2"], "lr_1" in both) == (0.5, 0.25, False)
    assert TWO.with_hyper(beta1=0.5, momentum=0.1).hyper["beta1"] == 0.5
    assert per_step(TWO, lr_1=T([0.0] * 3)).hyper["lr"].shape == (3,)
    stood = end(parameter_groups(TWO, START, {"b": {"lr_2": 0.0}, "a": {"lr_1": 0.0}}))
    assert torch.equal(stood["a"], START["a"]) and torch.equal(stood["b"], START["b"])
    with pytest.raises(UnsupportedOptimizer, match="has no hyperparameter 'momentum_1'"):
        TWO.with_hyper(momentum_1=0.5)


def test_names_in_partitions_of_partitions_and_in_chains() -> None:
    three = partition({"*": TWO, "b": sgd(0.2)})
    assert three.hyper["lr_3"] == 0.2
    with pytest.raises(UnsupportedOptimizer, match="lr_1 .*sgd for .*lr_2 .*adam for 'b', in .*lr_3 .sgd for 'b'"):
        three.with_hyper(lr=0.1, lr_2=0.1)
    assert three.with_hyper(lr_3=0.0).hyper["lr_3"] == 0.0
    nested = chain(clip(1.0), chain(clip(2.0), sgd(0.1)))
    with pytest.raises(
        UnsupportedOptimizer, match="clip_value_1 .the rule inside. and clip_value_2 .part 1 of the chain."
    ):
        nested.with_hyper(clip_value=3.0)
    changed = nested.with_hyper(clip_value_1=3.0).hyper
    assert (changed["clip_value"], changed["clip_value_2"]) == (3.0, 1.0)


def test_two_optimizers_of_torch_are_named_by_their_parameters() -> None:
    made = {name: p.clone().requires_grad_() for name, p in START.items()}
    rule = from_torch([torch.optim.SGD([made["a"]], lr=0.1), torch.optim.SGD([made["b"]], lr=0.1)], made)
    with pytest.raises(UnsupportedOptimizer, match="lr_1 .sgd for 'a'. and lr_2 .sgd for 'b'."):
        rule.with_hyper(lr=0.0)


def test_a_blocks_override_and_step_name_them_too() -> None:
    def moved(override: Any = None, **hyper: Any) -> list[bool]:
        net = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 1))
        rules = [torch.optim.SGD(net[0].parameters(), lr=0.1), torch.optim.Adam(net[1].parameters(), lr=0.1)]
        with engine.inner(net, rules, override=override) as block:
            block.step(net(torch.ones(1, 2)).square().sum(), **hyper)
            return [not torch.equal(block.params[name], block.start[name]) for name in ("0.bias", "1.bias")]

    assert moved() == [True, True]
    assert moved({"lr_1": 0.0}) == moved(lr_1=0.0) == [False, True]
    assert moved({"lr_2": 0.0}) == moved(lr_2=0.0) == [True, False]
    for way in (lambda: moved({"lr": 0.0}), lambda: moved(lr=0.0)):
        with pytest.raises(UnsupportedOptimizer, match="'0.weight', '0.bias'.*lr_2 .adam for '1.weight'"):
            way()

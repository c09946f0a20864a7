"""Numbers that a rule is given, by hand, in an override or in an optimiser's groups inside a block, and rules that move nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn, optim

from metaimpute.engine import (
    UnsupportedOptimizer,
    adam,
    averaged,
    chain,
    clip,
    clip_by_global_norm,
    from_torch,
    hypergradient,
    inner,
    parameter_groups,
    partition,
    per_step,
    plan,
    sam,
    schedule_free_sgd,
    sgd,
)
from metaimpute.engine.planning import PlanError

X = torch.linspace(-1, 1, 12).reshape(4, 3)
START = {"0.a": torch.tensor([0.5, -1.0, 2.0]), "1.b": torch.tensor([0.3, 0.2, -0.7])}


def loss(p: Any, c: Any, b: Any) -> Tensor:
    return (X @ (p["0.a"] * p["1.b"]) - 1.0).square().mean()


def end(rule: Any) -> dict[str, Tensor]:
    found: dict[str, Tensor] = hypergradient(loss, loss, START, None, None, rule, steps=2).params
    return found


RULES: list[Any] = [
    sgd, adam, schedule_free_sgd, lambda v: sam(0.1, rho=v), lambda v: averaged(sgd(0.1), v), lambda v: sgd(0.2).with_hyper(lr=v),
    lambda v: per_step(sgd(0.2), lr=[v, v]), lambda v: parameter_groups(sgd(0.2), START, {"0.*": {"lr": v}}),
    lambda v: sgd({"0.a": v, "1.b": v}), lambda v: chain(clip(v), sgd(0.1)), lambda v: chain(clip_by_global_norm(v), sgd(0.1)),
]  # fmt: skip


@pytest.mark.parametrize("make", RULES)
def test_numpys_numbers_are_numbers(make: Any) -> None:
    plain = end(make(0.25))
    for value in (np.float64(0.25), np.float32(0.25), np.array(0.25), np.array(0.25, dtype=np.float32)):
        found = end(make(value))
        assert all(torch.equal(found[name], plain[name]) for name in START)


@pytest.mark.parametrize("make", RULES)
@pytest.mark.parametrize(
    "value",
    [np.array([0.1]), np.array([[0.1]]), np.array([0.1, 0.2]), np.array("x"), np.complex64(1j), np.bool_(True), 1j, torch.tensor(1j)],
    ids=repr,
)  # fmt: skip
def test_what_is_no_number_is_refused_in_a_sentence(make: Any, value: Any) -> None:
    with pytest.raises(UnsupportedOptimizer, match=r"(is a number, a tensor or a dict|is one number for all).*not a "):
        end(make(value))


def test_an_array_of_one_number_says_how_it_becomes_a_tensor() -> None:
    with pytest.raises(UnsupportedOptimizer, match=r"not a ndarray of shape \[1\]; torch.as_tensor\(lr\)"):
        sgd(np.array([0.1]))


def test_a_beta_of_one_or_more_is_refused_in_a_change_too() -> None:
    for change in ({"beta1": 1.0}, {"beta2": 2.0}):
        with pytest.raises(UnsupportedOptimizer, match=r"must lie in \[0, 1\)"):
            adam(0.1).with_hyper(**change)
    with pytest.raises(UnsupportedOptimizer, match=r"beta1_2 must lie in \[0, 1\)"):
        partition({"0.*": adam(0.1), "1.*": adam(0.1)}).with_hyper(beta1_2=1.5)


def in_a_block(kind: Any, key: str, value: Any, **options: Any) -> Any:
    torch.manual_seed(0)
    net = nn.Linear(3, 1)
    rule = kind(net.parameters(), lr=0.1, **options)
    with inner(net, rule) as block:
        block.step(net(X).square().mean())
        rule.param_groups[0][key] = value
        block.step(net(X).square().mean())
        return block.params["bias"].detach()


@pytest.mark.parametrize("key", ["lr", "momentum", "weight_decay"])
@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf"), 1j, [0.1], "x", None, np.array([0.5])], ids=repr)
def test_a_group_given_no_number_inside_a_block_is_refused(key: str, value: Any) -> None:
    with pytest.raises(UnsupportedOptimizer, match=f"SGD: {key} (is a number|must be a finite number)"):
        in_a_block(optim.SGD, key, value)
    net = nn.Linear(3, 1)
    stock = optim.SGD(net.parameters(), lr=0.1)
    stock.param_groups[0][key] = value
    with pytest.raises(UnsupportedOptimizer, match=f"SGD: {key} "):
        from_torch(stock, dict(net.named_parameters()))


@pytest.mark.parametrize("value", [-1.0, None, (0.9,), (0.9, 2.0), ("a", 0.9), (-0.1, 0.9), (0.9, 1j)], ids=repr)
def test_betas_inside_a_block_are_two_numbers(value: Any) -> None:
    with pytest.raises(UnsupportedOptimizer, match=r"Adam: (betas in a parameter group is a tuple of 2|beta[12] )"):
        in_a_block(optim.Adam, "betas", value)


def test_what_a_group_may_be_given_inside_a_block_still_is() -> None:
    for value in (0.3, np.float64(0.3), np.array(0.3), torch.tensor(0.3)):
        assert torch.allclose(in_a_block(optim.SGD, "lr", value), in_a_block(optim.SGD, "lr", 0.3))
    assert torch.equal(in_a_block(optim.Adam, "betas", [0.5, 0.9]), in_a_block(optim.Adam, "betas", (0.5, 0.9)))
    assert torch.isfinite(in_a_block(optim.Adafactor, "eps", (1e-8, 1e-3))).all()
    assert torch.isfinite(in_a_block(optim.Adam, "amsgrad", True, amsgrad=True)).all()
    with pytest.raises(UnsupportedOptimizer, match="eps in a parameter group is a tuple of 2 numbers, not 3"):
        in_a_block(optim.Adafactor, "eps", 3)


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize(
    ("kind", "key"), [(optim.Adam, "amsgrad"), (optim.AdamW, "amsgrad"), (optim.RMSprop, "centered")]
)
def test_an_option_that_says_what_is_kept_cannot_change_inside_a_block(kind: Any, key: str, before: bool) -> None:
    with pytest.raises(UnsupportedOptimizer, match=f"{key} was changed inside the block.*set {key} before the block"):
        in_a_block(kind, key, not before, **{key: before})


def test_betas_in_an_override_are_named() -> None:
    net = nn.Linear(3, 1)
    for value in ((0.9, 0.99), 0.9):
        block = pytest.raises(UnsupportedOptimizer, match="no hyperparameter 'betas', but 'beta1' and 'beta2'")
        with block, inner(net, optim.Adam(net.parameters()), override={"betas": value}):
            pass


def test_a_rule_of_a_partition_that_a_later_one_covers_is_refused() -> None:
    for rules in (
        {"0.*": sgd(0.1), "*": adam(0.1)},
        [("0.a", sgd(0.1)), ("1.b", sgd(0.1)), (lambda name, p: True, adam(0.1))],
    ):
        with pytest.raises(
            UnsupportedOptimizer, match="sgd for '0.*moves nothing.*adam for .* comes later; put the wider one first"
        ):
            end(partition(rules))


def test_a_rule_for_the_rest_need_not_move_anything() -> None:
    for rules in (
        {"*": adam(0.1), "0.*": sgd(0.1)},
        {"*": adam(0.1), "0.*": sgd(0.1), "1.*": sgd(0.1)},
        [("*", sgd(0.1)), (lambda name, p: p.ndim == 2, adam(0.1))],
    ):
        assert not torch.equal(end(partition(rules))["0.a"], START["0.a"])


def test_a_plan_without_its_losses_names_what_is_needed() -> None:
    net: Any = nn.Linear(3, 1)
    for ask in (
        lambda: plan(net, 20, "4MB"),  # type: ignore[arg-type]
        lambda: plan(net, steps=20, budget="4MB"),
        lambda: plan(loss, loss, START, optimizer=sgd(0.1)),
        lambda: plan(loss, "4MB", START, optimizer=sgd(0.1), steps=3),  # type: ignore[arg-type]
    ):
        with pytest.raises(PlanError, match=r"plan\(inner_loss, outer_loss, params.*steps=.*metaimpute bench plan"):
            ask()

"""A loss that calls its own module, or is detached, moves nothing: it is refused, and what looks alike but is right is not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from metaimpute.engine import (
    CannotDifferentiate,
    FunctionalModel,
    adam,
    after_training,
    averaged,
    begin,
    hypergradient,
    sam,
    schedule_free_sgd,
    sgd,
    unroll,
)

EVERY = (
    "exact", "mixed", "forward", "finite_difference", "first_order", "truncated(1)", "cg(2)", "neumann(2)", "forward_gradient(2)",
    "es(2)",
)  # fmt: skip
torch.manual_seed(0)
X, Y, C = torch.randn(5, 3).double(), torch.randn(5, 1).double(), torch.ones(5, 1).double()
NET = nn.Linear(3, 1).double()
MODEL = FunctionalModel(NET)
START = {name: p.detach().clone() for name, p in NET.named_parameters()}


def inner(p: Any, c: Any, b: Any) -> Tensor:
    return (c * (MODEL(p, X) - Y).square()).mean()


def outer(p: Any, c: Any, b: Any) -> Tensor:
    return (MODEL(p, X) - 1).square().mean()


def of_its_own(p: Any, c: Any, b: Any) -> Tensor:
    return (c * (NET(X) - Y).square()).mean()


def detached(p: Any, c: Any, b: Any) -> Tensor:
    return inner(p, c, b).detach()


def run(inner_loss: Any, outer_loss: Any = outer, estimator: str = "exact", rule: Any = None, **options: Any) -> Any:
    options = {"steps": 2, "seed": 0, **options}
    return hypergradient(inner_loss, outer_loss, START, C, None, rule or sgd(0.1), estimator, **options)


@pytest.mark.parametrize("estimator", EVERY)
@pytest.mark.parametrize("loss", [of_its_own, detached])
def test_an_inner_loss_that_reaches_no_parameter_is_refused(loss: Any, estimator: str) -> None:
    with pytest.raises(
        CannotDifferentiate, match=r"inner loss depends on none of the parameters.*model\(params, x\).*inner"
    ):
        run(loss, estimator=estimator)


@pytest.mark.parametrize(
    "rule", [adam(0.1), sam(0.1), schedule_free_sgd(0.1), averaged(sgd(0.1))], ids=lambda r: r.label
)
@pytest.mark.parametrize("memory", ["store", "recompute", "checkpoint(1)"])
def test_so_it_is_under_every_rule_and_memory_policy(rule: Any, memory: str) -> None:
    with pytest.raises(CannotDifferentiate, match="inner loss depends on none"):
        run(detached, rule=rule, memory=memory)


@pytest.mark.parametrize("estimator", [name for name in EVERY if name != "es(2)"])
@pytest.mark.parametrize(
    "loss", [lambda p, c, b: (NET(X) - 1).square().mean(), lambda p, c, b: outer(p, c, b).detach()]
)
def test_an_outer_loss_that_reaches_nothing_is_refused(loss: Any, estimator: str) -> None:
    with pytest.raises(CannotDifferentiate, match="outer loss depends on neither the parameters nor the coupling"):
        run(inner, loss, estimator)


def test_after_training_refuses_them_too_with_and_without_a_gradient() -> None:
    for c in (C, C.clone().requires_grad_()):
        with pytest.raises(CannotDifferentiate, match="inner loss depends on none"):
            after_training(detached, outer, START, c, optimizer=sgd(0.1), steps=2)
    with pytest.raises(CannotDifferentiate, match="outer loss depends on neither"):
        after_training(inner, lambda p, c, b: outer(p, c, b).detach(), START, c, optimizer=sgd(0.1), steps=2)
    frozen = nn.Linear(3, 1).double().requires_grad_(False)
    with pytest.raises(CannotDifferentiate, match="inner loss depends on none"):
        after_training(lambda p, c, b: (c * frozen(X)).mean(), outer, START, c, optimizer=sgd(0.1))


def test_steps_taken_one_by_one_are_refused_at_their_value() -> None:
    training = begin(START, C.clone().requires_grad_(), lambda p, c, b: 0.0 * c.sum(), optimizer=sgd(0.1)).step().step()
    with pytest.raises(CannotDifferentiate, match="inner loss depends on none"):
        training.value(outer)


def test_an_unroll_refuses_an_inner_loss_that_reaches_no_parameter() -> None:
    with pytest.raises(CannotDifferentiate, match="inner loss depends on none"):
        unroll(of_its_own, START, C, None, sgd(0.1), 2)
    plain = unroll(of_its_own, START, C, None, sgd(0.1), 2, differentiable=False)
    assert all(torch.equal(plain.params[name], START[name]) for name in START)


@pytest.mark.parametrize("estimator", EVERY)
def test_what_looks_alike_and_is_right_is_not(estimator: str) -> None:
    def in_one_step(p: Any, c: Any, b: Any) -> Tensor:
        return inner(p, c, b) if b else c.square().mean()

    def of_one_parameter(p: Any, c: Any, b: Any) -> Tensor:
        return (c * (X @ p["weight"].T - Y).square()).mean()

    found = [
        hypergradient(in_one_step, outer, START, C, [0, 1], sgd(0.1), estimator, seed=0),
        hypergradient(in_one_step, outer, START, C, [1, 0], sgd(0.1), estimator, seed=0),
        run(of_one_parameter, estimator=estimator),
        run(inner, lambda p, c, b: c.square().sum(), estimator),
        run(inner, estimator=estimator, rule=sgd(0.0)),
        run(lambda p, c, b: 0.0 * inner(p, c, b) + 1, estimator=estimator),
        run(inner, lambda p, c, b: 0.0 * outer(p, c, b), estimator),
    ]
    assert all(one.outer_loss.isfinite() for one in found) and found[-1].outer_loss == 0
    assert not torch.equal(found[0].theta_k["weight"], START["weight"]), "one of two steps moves it"
    assert torch.equal(found[4].theta_k["weight"], START["weight"]), "a rate of zero moves nothing, and is right"


def test_an_outer_loss_without_slopes_is_for_evolution_strategies() -> None:
    assert run(inner, lambda p, c, b: (MODEL(p, X) > 0).double().mean(), "es(2)").outer_loss >= 0

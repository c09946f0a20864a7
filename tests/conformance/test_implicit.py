"""Implicit estimators: parameters that do not move, decay by entries, systems that have no solution."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from metaimpute.engine import Batches, EstimatorError, adam, hypergradient, momentum, parameter_groups, rmsprop, sgd

pytestmark = pytest.mark.usefixtures("float64")
Q = torch.diag(torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64))


def inner(p: Any, c: Any, b: Any) -> Tensor:
    return 0.5 * p["w"] @ Q @ p["w"] - c @ p["w"]


def estimate(loss: Any, outer: Any, theta: Any, c: Any, rule: Any, name: str, steps: int) -> Any:
    return hypergradient(loss, outer, theta, c, Batches([None], None), rule, name, steps=steps, seed=0)


@pytest.mark.parametrize("order", ["ws", "sw"])
@pytest.mark.parametrize("name", ["cg(10)", "neumann(200)"])
def test_parameters_that_only_the_outer_loss_uses_are_no_unknowns(name: str, order: str) -> None:
    def outer(p: Any, c: Any, b: Any) -> Tensor:
        return (p["w"] * p["s"]).sum().square() + p["s"].square().sum() + c.sum()

    values = {"w": torch.zeros(3), "s": torch.ones(3)}
    theta = {key: values[key] for key in order}
    rule = sgd(0.3, weight_decay=0.1)
    reference = estimate(inner, outer, theta, torch.ones(3), rule, "exact", 400)
    found = estimate(inner, outer, theta, torch.ones(3), rule, name, 400)
    torch.testing.assert_close(found.grad_c, reference.grad_c, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(found.theta_k["s"], torch.ones(3))
    assert float(found.diagnostics["residual"]) < 1e-6


def test_a_coupling_that_reaches_the_outer_loss_alone_has_its_direct_gradient() -> None:
    found = estimate(inner, lambda p, c, b: (c * p["s"]).sum(), {"w": torch.zeros(3), "s": torch.ones(3)}, torch.ones(3), sgd(0.1),
                     "cg(5)", 20)  # fmt: skip
    torch.testing.assert_close(found.grad_c, torch.ones(3))


@pytest.mark.parametrize("shape", [(), (1,), (1, 4), (2, 4)])
@pytest.mark.parametrize("rule", [sgd, momentum])
@pytest.mark.parametrize("name", ["cg(20)", "neumann(400)"])
def test_weight_decay_has_a_gradient_in_the_shape_of_its_entries(name: str, rule: Any, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    x, y = torch.randn(6, 4), torch.randn(6, 2)

    def loss(p: Any, c: Any, b: Any) -> Tensor:
        return (x @ p["w"].T - y).square().mean()

    def outer(p: Any, c: Any, b: Any) -> Tensor:
        return (x.flip(0) @ p["w"].T).square().mean()

    decay = torch.full(shape, 0.2)
    lr = 0.1
    found = [
        estimate(loss, outer, {"w": torch.ones(2, 4)}, None, rule(lr, weight_decay=decay), n, 800).grad_optimizer["weight_decay"]
        for n in ("exact", name)
    ]  # fmt: skip
    assert found[1].shape == shape
    torch.testing.assert_close(found[1], found[0], rtol=1e-5, atol=1e-8)


def test_weight_decay_by_name_and_by_group() -> None:
    def loss(p: Any, c: Any, b: Any) -> Tensor:
        return (p["a"] - c).square().sum() + (p["b"] + p["a"].sum() - 1).square().sum()

    def outer(p: Any, c: Any, b: Any) -> Tensor:
        return p["a"].square().sum() + p["b"].sum()

    theta = {"a": torch.zeros(2), "b": torch.zeros(3)}
    rule = parameter_groups(
        sgd(0.05), theta, {"a": {"weight_decay": torch.tensor(0.1)}, "b": {"weight_decay": torch.full((3,), 0.2)}}
    )
    found = [estimate(loss, outer, theta, torch.ones(2), rule, name, 1500) for name in ("exact", "cg(10)")]
    for part in ("a", "b"):
        one, other = (f.grad_optimizer["weight_decay"][part] for f in found)
        torch.testing.assert_close(other, one, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(found[1].grad_c, found[0].grad_c, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    "rule", [adam(0.05), rmsprop(0.01), sgd(0.2, maximize=True)], ids=["adam", "rmsprop", "ascent"]
)
def test_other_rules_reach_the_same_point(rule: Any) -> None:
    sign = -1.0 if rule.options.get("maximize") else 1.0
    steps = 3000 if rule.label != "sgd" else 200
    found = estimate(lambda p, c, b: sign * inner(p, c, b), lambda p, c, b: p["w"].square().sum(), {"w": torch.zeros(3)},
                     torch.ones(3), rule, "cg(10)", steps)  # fmt: skip
    torch.testing.assert_close(found.grad_c, 2 * Q.inverse() @ Q.inverse() @ torch.ones(3), rtol=2e-2, atol=2e-2)


# systems without a solution ----------------------------------------------------------------------------------------------


def saddle(p: Any, c: Any, b: Any) -> Tensor:
    return 0.5 * p["w"] @ torch.diag(torch.tensor([1.0, -2.0, 3.0])) @ p["w"] - c @ p["w"]


def test_a_diverging_series_is_refused_with_the_way_out() -> None:
    with pytest.raises(EstimatorError, match="lower alpha"):
        estimate(
            saddle, lambda p, c, b: p["w"].sum(), {"w": torch.zeros(3)}, torch.ones(3), sgd(0.9), "neumann(4000)", 1
        )


def test_negative_curvature_is_said() -> None:
    with pytest.warns(UserWarning, match="no minimum"):
        found = estimate(saddle, lambda p, c, b: (p["w"] * torch.tensor([1.0, 5.0, 1.0])).sum(), {"w": torch.zeros(3)},
                         torch.ones(3), sgd(0.01), "cg(5)", 1)  # fmt: skip
    assert found.diagnostics["negative_curvature"] is True
    with pytest.warns(UserWarning, match="series grows"):
        estimate(saddle, lambda p, c, b: p["w"].sum(), {"w": torch.zeros(3)}, torch.ones(3), sgd(0.5), "neumann(20)", 1)


def test_a_singular_system_gives_the_solution_it_has() -> None:
    """The outer loss depends on the used direction alone, so the flat one does no harm."""

    def flat(p: Any, c: Any, b: Any) -> Tensor:
        return (p["w"][0] - c).square()

    found = estimate(
        flat, lambda p, c, b: p["w"][0].square(), {"w": torch.zeros(2)}, torch.tensor(1.0), sgd(0.4), "cg(5)", 100
    )
    torch.testing.assert_close(found.grad_c, torch.tensor(2.0), rtol=1e-6, atol=1e-9)

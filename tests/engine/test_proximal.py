"""Proximal operators are what they minimise, and their slopes those of differences; at kinks entries are held."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from metaimpute.engine import proximal

pytestmark = pytest.mark.usefixtures("float64")
Z = torch.tensor([[1.3, -0.2, 0.05, -2.0, 0.7], [-0.4, -0.1, 0.3, 0.2, -0.9]], dtype=torch.float64)

OPERATORS: dict[str, tuple[Callable[..., Tensor], tuple[float, ...], Callable[[Tensor], Tensor]]] = {
    "l1": (proximal.prox_l1, (0.35,), lambda x: 0.35 * x.abs().sum()),
    "elastic net": (proximal.prox_elastic_net, (0.35, 0.6), lambda x: 0.35 * x.abs().sum() + 0.3 * x.square().sum()),
    "group lasso": (proximal.prox_group_lasso, (1.2,), lambda x: 1.2 * x.norm(dim=-1).sum()),
    "group lasso, off": (proximal.prox_group_lasso, (2.0,), lambda x: 2.0 * x.norm(dim=-1).sum()),
}
SETS: dict[str, tuple[Callable[..., Tensor], tuple[float, ...], Callable[[Tensor], Tensor]]] = {
    "nonnegative": (proximal.project_nonnegative, (), lambda x: x.clamp_min(0)),
    "box": (proximal.project_box, (-0.5, 0.6), lambda x: x.clamp(-0.5, 0.6)),
    "simplex": (proximal.project_simplex, (1.5,), lambda x: 1.5 * x.softmax(-1)),
    "ball": (proximal.project_l2_ball, (1.1,), lambda x: x / x.norm(dim=-1, keepdim=True).clamp_min(1.0) * 1.1),
    "ball, inside": (proximal.project_l2_ball, (9.0,), lambda x: x),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_a_proximal_operator_minimises_what_it_says(name: str) -> None:
    prox, strengths, penalty = OPERATORS[name]
    best = prox(Z, *strengths)

    def value(x: Tensor) -> Tensor:
        return (x - Z).square().sum() / 2 + penalty(x)

    for scale in (1e-3, 1e-2, 0.3):
        for _ in range(200):
            assert value(best + scale * torch.randn(2, 5)) >= value(best)
    inside = best + 1e-6 * torch.randn(2, 5) * (best != 0)
    assert abs(float(value(inside) - value(best))) < 1e-10


@pytest.mark.parametrize("name", SETS)
def test_a_projection_is_in_the_set_and_nearest(name: str) -> None:
    project, arguments, into = SETS[name]
    nearest = project(Z, *arguments)
    torch.testing.assert_close(project(nearest, *arguments), nearest)
    for _ in range(300):
        other = into(Z + torch.randn(2, 5))
        inner = ((Z - nearest) * (other - nearest)).sum(-1)
        assert float(inner.max()) < 1e-9, "the set lies on the far side of the tangent plane"


@pytest.mark.parametrize("name", [*OPERATORS, *SETS])
def test_slopes_are_those_of_differences_in_the_point_and_in_every_strength(name: str) -> None:
    function, arguments, _ = {**OPERATORS, **SETS}[name]
    inputs = (Z.clone().requires_grad_(), *(torch.tensor(a, requires_grad=True) for a in arguments))
    assert gradcheck(function, inputs, check_forward_ad=True)
    shaped = (Z.clone().requires_grad_(), *(torch.full((2, 1), a) for a in arguments))
    if name.startswith("group"):
        shaped = (shaped[0], shaped[1][:, 0])
    torch.testing.assert_close(function(*shaped), function(*inputs))


def test_at_a_kink_an_entry_is_held() -> None:
    for function, kink in (
        (lambda z: proximal.prox_l1(z, 0.5), [0.5, -0.5, 0.0]),
        (lambda z: proximal.project_box(z, -1.0, 1.0), [1.0, -1.0, 1.0]),
        (proximal.project_nonnegative, [0.0, 0.0, 0.0]),
        (lambda z: proximal.prox_group_lasso(z, 1.0), [0.6, 0.8, 0.0]),
        (lambda z: proximal.prox_group_lasso(z, 1.0), [0.0, 0.0, 0.0]),
    ):
        z = torch.tensor(kink, requires_grad=True)
        slope = torch.autograd.functional.jacobian(function, z)
        assert not slope.any() and torch.isfinite(slope).all(), kink
    bound = torch.tensor([1.0], requires_grad=True)
    assert float(torch.autograd.grad(proximal.project_box(torch.ones(1), 0.0, bound).sum(), bound)[0]) == 1.0
    zero = torch.zeros(3, requires_grad=True)
    assert torch.isfinite(torch.autograd.grad(proximal.project_l2_ball(zero).sum(), zero)[0]).all()


def test_proximal_gradient_goes_down_on_trees() -> None:
    matrix = torch.diag(torch.tensor([1.0, 2.0, 0.5]))

    def objective(x: dict[str, Tensor], strength: Tensor) -> Tensor:
        return x["a"] @ matrix @ x["a"] / 2 - x["a"].sum() + (x["b"] - 1).square().sum() / 2

    def prox(z: dict[str, Tensor], step: float, strength: Tensor) -> dict[str, Tensor]:
        return {"a": proximal.prox_l1(z["a"], step * strength), "b": proximal.project_nonnegative(z["b"])}

    step = proximal.proximal_gradient(objective, prox, 0.5)
    x = {"a": torch.zeros(3), "b": -torch.ones(2)}
    for _ in range(200):
        x = step(x, torch.tensor(0.25))
    torch.testing.assert_close(x["a"], 0.75 / matrix.diagonal())
    torch.testing.assert_close(x["b"], torch.ones(2))


@pytest.mark.parametrize(
    "wrong",
    [
        lambda z: proximal.prox_l1(z, -1.0), lambda z: proximal.prox_elastic_net(z, 0.1, -1.0),
        lambda z: proximal.prox_group_lasso(z, torch.tensor(-1.0)), lambda z: proximal.project_box(z, 1.0, 0.0),
        lambda z: proximal.project_simplex(z, -1.0), lambda z: proximal.project_simplex(z, float("nan")),
        lambda z: proximal.project_l2_ball(z, -1.0), lambda z: proximal.project_l2_ball(z, 0.0),
    ],
    ids=["l1", "elastic net", "group lasso", "box", "simplex", "simplex, nan", "ball", "ball, 0"],
)  # fmt: skip
def test_amounts_that_mean_nothing_are_refused(wrong: Any) -> None:
    with pytest.raises(ValueError, match="must be"):
        wrong(torch.randn(2, 3))

"""A solution on the accelerator has the derivative that it has on the CPU, also inside a call of the engine."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from metaimpute.engine import evolution_gradient, hypergradient, implicit, sgd

pytestmark = pytest.mark.usefixtures("float64")


def objective(w: Tensor, decay: Tensor, x: Tensor, y: Tensor) -> Tensor:
    return (x @ w - y).square().mean() / 2 + (decay.exp() * w.square()).sum() / 2


def problem(device: torch.device) -> tuple[Tensor, ...]:
    rng = torch.Generator().manual_seed(0)
    x, y, decay = torch.randn(20, 4, generator=rng), torch.randn(20, generator=rng), torch.zeros(4)
    w = torch.linalg.solve(x.T @ x / 20 + torch.eye(4), x.T @ y / 20)
    return tuple(leaf.to(device) for leaf in (w, decay, x, y))


@pytest.mark.parametrize("solve", ["cg", "gmres", "normal_cg", "bicgstab", "direct"])
def test_both_orders_are_those_of_the_cpu(solve: str, device: torch.device) -> None:
    def slopes(where: torch.device) -> list[Tensor]:
        w, decay, x, y = problem(where)
        decay.requires_grad_()
        end = implicit(w, decay, x, y, objective=objective, solve=solve)
        first = torch.autograd.grad(end.pow(3).sum(), decay, create_graph=True)[0]
        return [first.detach().cpu(), torch.autograd.grad(first.sum(), decay)[0].cpu()]

    for found, expected in zip(slopes(device), slopes(torch.device("cpu")), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("estimator", ["exact", "mixed", "cg(5)"])
def test_inside_the_loss_of_an_estimator(estimator: str, device: torch.device) -> None:
    def found(where: torch.device) -> Tensor:
        w, decay, x, y = problem(where)

        def inner(p: Any, c: Any, b: Any) -> Tensor:
            return (
                (implicit(w, decay + 0 * c, x, y + c.sum() - c.sum().detach(), objective=objective) - p["w"])
                .square()
                .sum()
            )

        end = hypergradient(
            inner,
            lambda p, c, b: p["w"].sum(),
            {"w": torch.ones_like(w)},
            decay,
            None,
            sgd(0.2),
            estimator,
            steps=2,
            seed=0,
        )
        return end.grad_c.cpu()  # type: ignore[no-any-return]

    torch.testing.assert_close(found(device), found(torch.device("cpu")), rtol=1e-8, atol=1e-10)


def test_directions_of_evolution_strategies_are_those_of_the_cpu(device: torch.device) -> None:
    at = torch.arange(4.0)
    found = [
        evolution_gradient(lambda x: x.cos().sum(), at.to(d), pairs=5).gradient.cpu()
        for d in (device, torch.device("cpu"))
    ]
    torch.testing.assert_close(found[0], found[1], rtol=1e-9, atol=1e-11)

"""Inner optimisers are torch.optim's rules; what cannot be honoured is refused."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from metaimpute.engine import UnsupportedOptimizer, from_torch, momentum, nesterov, sgd, unroll
from metaimpute.engine.optimizers import apply_updates

SETTINGS: list[dict[str, Any]] = [
    {"lr": 0.1},
    {"lr": 0.1, "weight_decay": 0.2},
    {"lr": 0.1, "momentum": 0.9},
    {"lr": 0.1, "momentum": 0.9, "dampening": 0.3, "weight_decay": 0.1},
    {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
    {"lr": 0.1, "momentum": 0.5, "maximize": True},
]


def network() -> nn.Module:
    torch.manual_seed(2)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double()


def loss_of(net: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return net(x).square().mean()


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_trajectories_equal_torch_optim(settings: dict[str, Any]) -> None:
    net, x = network(), torch.randn(6, 3, dtype=torch.float64)
    ours = dict(copy.deepcopy(net).named_parameters())
    rule, stock = sgd(**settings), torch.optim.SGD(net.parameters(), **settings)
    params, state = {n: p.detach() for n, p in ours.items()}, rule.init(ours)
    for _ in range(5):
        at = {n: p.requires_grad_() for n, p in params.items()}
        grads = torch.autograd.grad(loss_of_params(net, at, x), list(at.values()))
        updates, state = rule.update(dict(zip(at, grads, strict=True)), state, params, rule.hyper)
        params = {n: p.detach() for n, p in apply_updates(params, updates).items()}
        stock.zero_grad()
        loss_of(net, x).backward()
        stock.step()
    for name, p in net.named_parameters():
        torch.testing.assert_close(params[name], p.detach(), rtol=1e-12, atol=1e-14)


def loss_of_params(net: nn.Module, params: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    return torch.func.functional_call(net, params, (x,)).square().mean()


@pytest.mark.parametrize("resume", [True, False])
def test_from_torch_continues_a_running_optimizer(resume: bool) -> None:
    net, x = network(), torch.randn(6, 3, dtype=torch.float64)
    groups = [{"params": net[0].parameters(), "lr": 0.2}, {"params": net[2].parameters(), "momentum": 0.7}]  # type: ignore[index]
    stock = torch.optim.SGD(groups, lr=0.05, momentum=0.9, weight_decay=0.01)
    for _ in range(3):
        stock.zero_grad()
        loss_of(net, x).backward()
        stock.step()
    params = dict(net.named_parameters())
    twin = from_torch(stock, params, resume=resume)
    assert twin.hyper["lr"] == {"0.weight": 0.2, "0.bias": 0.2, "2.weight": 0.05, "2.bias": 0.05}
    end = unroll(lambda th, c, b: loss_of_params(net, th, b), params, None, [x], twin, 4, differentiable=False)
    if not resume:
        stock.state.clear()
    for _ in range(4):
        stock.zero_grad()
        loss_of(net, x).backward()
        stock.step()
    for name, p in params.items():
        torch.testing.assert_close(end.params[name], p.detach(), rtol=1e-12, atol=1e-14)


def test_a_parameter_without_gradient_does_not_move_even_under_weight_decay() -> None:
    params = {"used": torch.ones(2), "unused": torch.ones(2)}
    end = unroll(
        lambda th, c, b: th["used"].sum(),
        params,
        None,
        [None],
        sgd(0.1, 0.9, weight_decay=0.5),
        3,
        differentiable=False,
    )
    assert torch.equal(end.params["unused"], params["unused"])
    assert not torch.equal(end.params["used"], params["used"])


def test_impossible_optimizers_are_refused() -> None:
    net = network()
    params = dict(net.named_parameters())
    with pytest.raises(UnsupportedOptimizer, match="no differentiable twin of Adadelta"):
        from_torch(torch.optim.Adadelta(net.parameters()), params)
    with pytest.raises(UnsupportedOptimizer, match="holds no parameter named 2.weight"):
        from_torch(torch.optim.SGD(net[0].parameters(), lr=0.1), params)  # type: ignore[index]
    flags = [{"params": net[0].parameters(), "maximize": True}, {"params": net[2].parameters()}]  # type: ignore[index]
    with pytest.raises(UnsupportedOptimizer, match="differ in"):
        from_torch(torch.optim.SGD(flags, lr=0.1), params)
    with pytest.raises(UnsupportedOptimizer, match="Nesterov"):
        nesterov(0.1, 0.0)
    with pytest.raises(UnsupportedOptimizer, match="no hyperparameter"):
        momentum(0.1).with_hyper(beta=3)
    strange = torch.optim.SGD(net.parameters(), lr=0.1)
    strange.param_groups[0]["trust_ratio"] = 1.0
    with pytest.raises(UnsupportedOptimizer, match="trust_ratio"):
        from_torch(strange, params)


def test_with_hyper_changes_values_and_keeps_the_rule() -> None:
    assert momentum(0.1).with_hyper(lr=0.3).hyper["lr"] == 0.3

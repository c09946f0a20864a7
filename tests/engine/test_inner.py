"""Gradients of a block: against finite differences, against ``unroll`` to the bit, and the steps against torch's own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from metaimpute.engine import FunctionalModel, from_torch, gradient_callback, inner, unroll

from .inner_data import KINDS, STEPS, Data, after, check, differences, named, network

pytestmark = pytest.mark.usefixtures("float64")
optim = torch.optim


@pytest.mark.parametrize("memory", ["store", "recompute"])
@pytest.mark.parametrize("before", [0, 2])
@pytest.mark.parametrize("case", KINDS, ids=named)
def test_gradients_are_those_of_unroll_to_the_bit(case: Any, before: int, memory: str, data: Data) -> None:
    net, weights = network(), torch.rand(6, 1, requires_grad=True)
    stock = case[0](net.parameters(), **{"lr": 0.1, **case[1]})
    for _ in range(before):
        stock.zero_grad()
        mse_loss(net(data.x), data.y).backward()
        stock.step()
    for p in net.parameters():
        p.grad = None
    model = FunctionalModel(net)
    end = unroll(
        lambda th, c, b: (c * (model(th, data.x) - data.y).square()).mean(), model.params, weights, None,
        from_torch(stock, model.params), STEPS,
    )  # fmt: skip
    there = mse_loss(model(end.params, data.x_val), data.y_val)
    expected = torch.autograd.grad(there, [weights, *net.parameters()])
    with inner(net, stock, memory=memory) as block:
        for _ in range(STEPS):
            block.step(lambda: (weights * (net(data.x) - data.y).square()).mean())
        here = after(net, data)
    assert torch.equal(here, there) and [float(a) for a in block.losses] == [float(b) for b in end.losses]
    for found, wanted in zip(torch.autograd.grad(here, [weights, *net.parameters()]), expected, strict=True):
        assert torch.equal(found, wanted)


@pytest.mark.parametrize("memory", ["store", "recompute"])
@pytest.mark.parametrize("case", KINDS, ids=named)
def test_gradients_are_those_of_finite_differences(case: Any, memory: str, data: Data) -> None:
    torch.manual_seed(2)
    net, weights, log_lr = nn.Linear(4, 2), torch.rand(6, 1, requires_grad=True), torch.tensor(-2.0, requires_grad=True)
    stock = case[0](net.parameters(), **case[1])
    mse_loss(net(data.x), data.y).backward()
    stock.step()  # moments away from zero, where roots have no second derivative

    def value() -> Tensor:
        with inner(net, stock, override={"lr": log_lr.exp()}, memory=memory) as block:
            for _ in range(STEPS):
                block.step(lambda: (weights * (net(data.x) - data.y).square()).mean())
            return after(net, data)

    check(value, [weights, log_lr, net.weight], rtol=2e-5, atol=1e-8)


@pytest.mark.parametrize("case", KINDS, ids=named)
def test_steps_are_torchs(case: Any, data: Data) -> None:
    net = network()
    stock = case[0](net.parameters(), **{"lr": 0.1, **case[1]})
    with inner(net, stock) as block:
        for _ in range(5):
            block.step(mse_loss(net(data.x), data.y))
    for _ in range(5):
        stock.zero_grad()
        mse_loss(net(data.x), data.y).backward()
        stock.step()
    for name, p in net.named_parameters():
        torch.testing.assert_close(block.params[name].detach(), p.detach(), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("before", [0, 2])
@pytest.mark.parametrize("case", KINDS, ids=named)
def test_steps_that_are_written_back_are_gone_on_from(case: Any, before: int, data: Data) -> None:
    """Torch's own steps, a block's, and torch's again."""
    nets = [network(), network()]
    stock = [case[0](net.parameters(), **{"lr": 0.1, **case[1]}) for net in nets]

    def train(which: int, steps: int) -> None:
        for _ in range(steps):
            stock[which].zero_grad()
            mse_loss(nets[which](data.x), data.y).backward()
            stock[which].step()

    train(0, before)
    with inner(nets[0], stock[0], gradients=gradient_callback(lambda grads: None)) as block:
        for _ in range(2):
            block.step(mse_loss(nets[0](data.x), data.y))
    block.write_back()
    train(0, 3)
    train(1, before + 2 + 3)
    for a, b in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7 if case[0] is optim.NAdam else 1e-12, atol=1e-12)
    for p, q in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        mine, theirs = stock[0].state[p], stock[1].state[q]
        assert {k: (type(v), getattr(v, "dtype", None)) for k, v in mine.items()} == {
            k: (type(v), getattr(v, "dtype", None)) for k, v in theirs.items()
        }
        if "step" in theirs:
            assert float(mine["step"]) == float(theirs["step"])


def test_muon_and_adamw_are_written_back(data: Data) -> None:
    nets = [network(), network()]
    stock = []
    for net in nets:
        matrices, others = ([p for p in net.parameters() if (p.ndim == 2) == two] for two in (True, False))
        stock.append([optim.Muon(matrices, lr=0.1), optim.AdamW(others, lr=0.05)])
    with inner(nets[0], stock[0]) as block:
        for _ in range(2):
            block.step(mse_loss(nets[0](data.x), data.y))
    block.write_back()
    for which, steps in ((0, 2), (1, 4)):
        for _ in range(steps):
            nets[which].zero_grad()
            mse_loss(nets[which](data.x), data.y).backward()
            for one in stock[which]:
                one.step()
    for a, b in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-2, atol=1e-3)  # torch's iteration is in bfloat16


def test_first_order_takes_inner_gradients_for_constants(data: Data) -> None:
    net, rate = network(), torch.tensor(0.1, requires_grad=True)
    with inner(net, optim.SGD(net.parameters(), lr=0.5), override={"lr": rate}, first_order=True) as block:
        for _ in range(STEPS):
            block.step(mse_loss(net(data.x), data.y))
        outer = after(net, data)
        last = torch.autograd.grad(outer, list(block.params.values()), retain_graph=True)
        rates = torch.autograd.grad(outer, rate, retain_graph=True)[0]
    found = torch.autograd.grad(outer, list(net.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(found, last, strict=True))
    moved = [(p.detach() - block.start[name].detach()) / rate.detach() for name, p in block.params.items()]
    assert float(rates) == pytest.approx(float(sum((m * g).sum() for m, g in zip(moved, last, strict=True))), rel=1e-12)


def test_without_a_graph_and_under_no_grad(data: Data) -> None:
    net, weights = network(), torch.rand(6, 1, requires_grad=True)
    ends = []
    for plain, off in ((False, False), (True, False), (False, True)):
        with (
            torch.set_grad_enabled(not off),
            inner(net, optim.Adam(net.parameters()), differentiable=not plain) as block,
        ):
            for _ in range(STEPS):
                block.step((weights * (net(data.x) - data.y).square()).mean())
                if plain:
                    block.detach()  # of no graph
        ends.append([p.detach() for p in block.params.values()])
        assert all(p.is_leaf == (plain or off) for p in block.params.values())
    for end in ends[1:]:
        assert all(torch.allclose(a, b, rtol=1e-12, atol=0) for a, b in zip(ends[0], end, strict=True))


def test_a_constant_start_has_no_gradient(data: Data) -> None:
    net, weights = network(), torch.rand(6, 1, requires_grad=True)
    with inner(net, optim.SGD(net.parameters(), lr=0.1), track_start=False) as block:
        block.step((weights * (net(data.x) - data.y).square()).mean())
        after(net, data).backward()
    assert all(p.grad is None for p in net.parameters()) and weights.grad is not None
    with inner(net, optim.SGD(net.parameters(), lr=0.1)) as tracked:
        tracked.step((weights * (net(data.x) - data.y).square()).mean())
        (found,) = torch.autograd.grad(after(net, data), weights)
    assert torch.equal(found, weights.grad)


def test_the_value_may_be_differentiated_twice(data: Data) -> None:
    net, weights = network(), torch.rand(6, 1, requires_grad=True)
    found = []
    for memory in ("store", "recompute"):
        with inner(net, optim.SGD(net.parameters(), lr=0.3), memory=memory) as block:
            for _ in range(STEPS):
                block.step(lambda: (weights.square() * (net(data.x) - data.y).square()).mean())
            (slope,) = torch.autograd.grad(after(net, data), weights, create_graph=True)
        found.append(torch.autograd.grad(slope.square().sum(), weights)[0])
        if memory == "store":

            def slope_at() -> Tensor:
                with inner(net, optim.SGD(net.parameters(), lr=0.3)) as block:
                    for _ in range(STEPS):
                        block.step((weights.square() * (net(data.x) - data.y).square()).mean())
                    return torch.autograd.grad(after(net, data), weights)[0].square().sum()

            torch.testing.assert_close(found[0], differences(slope_at, weights), rtol=1e-6, atol=1e-10)
    assert torch.equal(found[0], found[1])


def test_recompute_sees_the_loops_variables_as_they_were(data: Data) -> None:
    net, weights = network(), torch.rand(6, 1, requires_grad=True)
    found = []
    for memory in ("store", "recompute"):
        with inner(net, optim.SGD(net.parameters(), lr=0.3), memory=memory) as block:
            for x, y in ((data.x, data.y), (data.x.flip(0), 2 * data.y), (data.x + 1, data.y)):
                block.step(lambda: (weights * (net(x) - y).square()).mean())
            out = after(net, data)
        net.eval()
        found.append(torch.autograd.grad(out, weights)[0])
        net.train()
    assert torch.equal(found[0], found[1])


def test_recompute_holds_the_weights_of_each_step_alone() -> None:
    """The activations of a step are 100 times its weights; a graph of ten steps has them ten times."""
    from metaimpute.engine.live_memory import LiveBytes

    net = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 1))
    x = torch.randn(2000, 4)
    held = {}
    for memory in ("store", "recompute"):
        with LiveBytes() as live:
            with inner(net, optim.SGD(net.parameters(), lr=0.1), memory=memory) as block:
                for _ in range(10):
                    block.step(lambda: net(x).square().mean())
                out = net(x).square().mean()
            held[memory] = live.now
            torch.autograd.grad(out, list(net.parameters()))
            if memory == "recompute":
                assert live.peak < 0.5 * held["store"]
    assert held["recompute"] < 0.2 * held["store"]

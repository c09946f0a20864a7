"""Blocks do what ``higher`` does, to 1e-12, over every optimiser that both know, in the situations that its own tests are about."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from metaimpute.engine import gradient_callback, inner
from metaimpute.engine.blocks import unused

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    higher = pytest.importorskip("higher")

pytestmark = pytest.mark.usefixtures("float64")
optim = torch.optim
# higher's Adam adds eps before the correction of the second moment, as torch once did; with one that plays no part they agree
TINY = {"eps": 1e-30}
EXACT = {"rtol": 1e-12, "atol": 1e-12}
CASES: list[tuple[Any, dict[str, Any]]] = [
    (optim.SGD, {}),
    (optim.SGD, {"momentum": 0.9}),
    (optim.SGD, {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
    (optim.SGD, {"momentum": 0.9, "dampening": 0.2}),
    (optim.Adam, TINY),
    (optim.Adam, {"weight_decay": 0.1, "betas": (0.7, 0.9), **TINY}),
    (optim.Adadelta, {}),
    (optim.Adadelta, {"weight_decay": 0.1}),
    (optim.Adagrad, {}),
    (optim.Adagrad, {"weight_decay": 0.1, "lr_decay": 0.1}),
    (optim.Adamax, {}),
    (optim.Adamax, {"weight_decay": 0.1}),
    (optim.RMSprop, {}),
    (optim.RMSprop, {"momentum": 0.1, "weight_decay": 0.1}),
    (optim.RMSprop, {"centered": True}),
]


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    unused._waiting.clear()


class Nested(nn.Module):
    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part

    def forward(self, x: Tensor) -> Tensor:
        return self.part(x)


class Twice(nn.Module):
    """One layer at two places."""

    def __init__(self) -> None:
        super().__init__()
        self.first = Nested(nn.Linear(4, 2))
        self.second = Nested(self.first.part)

    def forward(self, x: Tensor) -> Tensor:
        return self.first(x) + self.second(x.flip(1)).tanh()


class Half(nn.Module):
    """One of two parameters is used."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(torch.rand(4, 3)), nn.Parameter(torch.rand(4, 3))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.a


def sequential() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 4, bias=False), nn.Sigmoid(), nn.Linear(4, 2))


def shared() -> nn.Module:
    again = nn.Linear(4, 3)
    return nn.Sequential(again, nn.Tanh(), nn.Linear(3, 4), nn.Sigmoid(), again, nn.Tanh(), nn.Linear(3, 2))


def normalised() -> nn.Module:
    return nn.Sequential(
        nn.Linear(4, 3), nn.Tanh(), nn.BatchNorm1d(3), nn.Linear(3, 4), nn.Sigmoid(), nn.BatchNorm1d(4)
    )


MODELS: list[Callable[[], nn.Module]] = [sequential, Twice, shared, Half, normalised]
INPUTS = [torch.rand(10, 4, generator=torch.Generator().manual_seed(i), dtype=torch.float64) for i in range(4)]


def made(model: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(3)
    return model()


def loss_of(output: Any) -> Tensor:
    return output.square().sum()


def warmed(net: nn.Module, stock: torch.optim.Optimizer, steps: int) -> None:
    """Steps of torch's own, so that there is state to carry."""
    for _ in range(steps):
        stock.zero_grad()
        loss_of(net(INPUTS[3]) + 0.1).backward()
        stock.step()


def theirs(
    net: nn.Module, stock: Any, weights: Tensor, rate: list[Tensor] | None, **options: Any
) -> tuple[list[Tensor], Tensor]:
    override = {} if rate is None else {"override": {"lr": rate}}
    with higher.innerloop_ctx(net, stock, copy_initial_weights=False, **override, **options) as (fast, rule):
        for x in INPUTS[:3]:
            rule.step(loss_of(weights * fast(x)))
        return list(fast.parameters()), loss_of(fast(INPUTS[3]))


def ours(
    net: nn.Module, stock: Any, weights: Tensor, rate: list[Tensor] | None, **options: Any
) -> tuple[list[Tensor], Tensor]:
    override = {} if rate is None else {"lr": rate[0] if len(rate) == 1 else rate}
    with inner(net, stock, override=override, **options) as block:
        for x in INPUTS[:3]:
            block.step(loss_of(weights * net(x)))
        return list(net.parameters()), loss_of(net(INPUTS[3]))


def assert_same(net: nn.Module, stock: Any, tensors: list[Tensor], one: Any, other: Any) -> None:
    for a, b in zip(one[0], other[0], strict=True):
        torch.testing.assert_close(a, b, **EXACT)
    torch.testing.assert_close(one[1], other[1], **EXACT)
    found, wanted = (torch.autograd.grad(value, tensors, allow_unused=True) for _, value in (one, other))
    for a, b in zip(found, wanted, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-11)


@pytest.mark.parametrize("before", [0, 2])
@pytest.mark.parametrize("model", MODELS, ids=lambda m: m.__name__)
@pytest.mark.parametrize("case", CASES, ids=lambda c: c[0].__name__ + ",".join(c[1]))
def test_ends_and_gradients_in_weights_rate_and_start(case: Any, model: Any, before: int) -> None:
    net, weights, rate = made(model), torch.rand(10, 1, requires_grad=True), torch.tensor(0.05, requires_grad=True)
    stock = case[0](net.parameters(), **{"lr": 0.1, **case[1]})
    warmed(net, stock, before)
    tensors = [weights, rate, *net.parameters()]
    assert_same(net, stock, tensors, ours(net, stock, weights, [rate]), theirs(net, stock, weights, [rate]))


@pytest.mark.parametrize("case", CASES, ids=lambda c: c[0].__name__ + ",".join(c[1]))
def test_groups_with_rates_of_their_own_learned(case: Any) -> None:
    net, weights = made(sequential), torch.rand(10, 1, requires_grad=True)
    halves = list(net.parameters())[:2], list(net.parameters())[2:]
    rates = [torch.tensor(0.05, requires_grad=True), torch.tensor(0.2, requires_grad=True)]
    stock = case[0]([{"params": halves[0], "lr": 0.2}, {"params": halves[1]}], **{"lr": 0.1, **case[1]})
    warmed(net, stock, 1)
    assert_same(
        net, stock, [weights, *net.parameters()], ours(net, stock, weights, None), theirs(net, stock, weights, None)
    )
    tensors = [weights, *rates, *net.parameters()]
    assert_same(net, stock, tensors, ours(net, stock, weights, rates), theirs(net, stock, weights, rates))


def test_rates_of_each_step() -> None:
    net, rates = made(sequential), [torch.tensor(0.1 * (i + 1), requires_grad=True) for i in range(3)]
    stock = optim.SGD(net.parameters(), lr=1.0, momentum=0.9)
    with higher.innerloop_ctx(net, stock, copy_initial_weights=False) as (fast, rule):
        for x, rate in zip(INPUTS, rates, strict=False):
            rule.step(loss_of(fast(x)), override={"lr": [rate]})
        there = list(fast.parameters()), loss_of(fast(INPUTS[3]))
    with inner(net, stock) as block:
        for x, rate in zip(INPUTS, rates, strict=False):
            block.step(loss_of(net(x)), lr=rate)
        here = list(net.parameters()), loss_of(net(INPUTS[3]))
    assert_same(net, stock, [*rates, *net.parameters()], here, there)


def test_a_gradient_callback() -> None:
    net, weights = made(sequential), torch.rand(10, 1, requires_grad=True)
    stock = optim.Adam(net.parameters(), lr=0.1, **TINY)
    with higher.innerloop_ctx(net, stock, copy_initial_weights=False) as (fast, rule):
        for x in INPUTS[:3]:
            rule.step(loss_of(weights * fast(x)), grad_callback=lambda grads: [g.tanh() for g in grads])
        there = list(fast.parameters()), loss_of(fast(INPUTS[3]))
    on_the_way = gradient_callback(lambda grads: {name: g.tanh() for name, g in grads.items()})
    here = ours(net, stock, weights, None, gradients=on_the_way)
    assert_same(net, stock, [weights, *net.parameters()], here, there)


def test_frozen_parameters() -> None:
    net, weights = made(sequential), torch.rand(10, 1, requires_grad=True)
    net[0].requires_grad_(False)  # type: ignore[index]
    stock = optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    tensors = [weights, *(p for p in net.parameters() if p.requires_grad)]
    assert_same(net, stock, tensors, ours(net, stock, weights, None), theirs(net, stock, weights, None))


def test_a_start_that_is_a_copy_and_steps_that_are_not_tracked() -> None:
    net, weights = made(sequential), torch.rand(10, 1, requires_grad=True)
    stock = optim.Adam(net.parameters(), lr=0.1, **TINY)
    with higher.innerloop_ctx(net, stock) as (fast, rule):  # copy_initial_weights=True, its default
        for x in INPUTS[:3]:
            rule.step(loss_of(weights * fast(x)))
        there = list(fast.parameters()), loss_of(fast(INPUTS[3]))
    assert_same(net, stock, [weights, *net.parameters()], ours(net, stock, weights, None, track_start=False), there)
    here = ours(net, stock, weights, None, differentiable=False)
    there = theirs(net, stock, weights, None, track_higher_grads=False)
    for a, b in zip(here[0], there[0], strict=True):
        torch.testing.assert_close(a, b, **EXACT)
        assert a.is_leaf and b.is_leaf


@pytest.mark.parametrize("kind", [nn.RNN, nn.LSTM, nn.GRU, nn.RNNCell, nn.LSTMCell, nn.GRUCell])
def test_recurrent_layers(kind: Any) -> None:
    net = made(lambda: kind(3, 4, 2) if "Cell" not in kind.__name__ else kind(3, 4))
    stock, inputs = optim.SGD(net.parameters(), lr=0.05), torch.randn(3, 5, 2, 3)

    def run(call: Any, x: Tensor) -> Tensor:
        if "Cell" not in kind.__name__:
            return loss_of(call(x)[0])
        state = None
        for now in x:
            state = call(now, state)
        return loss_of(state[0] if isinstance(state, tuple) else state)

    with higher.innerloop_ctx(net, stock, copy_initial_weights=False) as (fast, rule):
        for x in inputs[:2]:
            rule.step(run(fast, x))
        there = list(fast.parameters()), run(fast, inputs[2])
    with inner(net, stock) as block:
        for x in inputs[:2]:
            block.step(run(net, x))
        here = list(net.parameters()), run(net, inputs[2])
    assert_same(net, stock, list(net.parameters()), here, there)


def test_parts_called_directly() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(4, 3), nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.two(self.one(x))

    net = made(Two)
    stock, right = optim.SGD(net.parameters(), lr=0.1), []
    with higher.innerloop_ctx(net, stock, copy_initial_weights=False) as (fast, rule):
        rule.step(loss_of(fast.two(fast.one(INPUTS[0]))))
        params = list(fast.parameters())
        for step_seen in (False, True):
            if step_seen:
                fast(INPUTS[3])  # its parts get the new weights when the whole is called
            found, wanted = fast.one(INPUTS[3]), nn.functional.linear(INPUTS[3], *params[:2])
            right.append(torch.allclose(found, wanted))
        there = params, loss_of(found)
    assert right == [False, True]
    with inner(net, stock) as block:
        block.step(loss_of(net.two(net.one(INPUTS[0]))))  # type: ignore[operator]
        here = list(net.parameters()), loss_of(net.one(INPUTS[3]))  # type: ignore[operator]
    assert_same(net, stock, list(net.parameters()), here, there)

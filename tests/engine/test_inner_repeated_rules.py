"""A block's rule when its steps are taken again: numbers are those of the step, and another rule is refused in one sentence."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn, optim
from torch.nn.functional import mse_loss

from metaimpute.engine import NotRepeatable, gradient_callback, inner, scheduled, sgd

pytestmark = pytest.mark.usefixtures("float64")
DRAW = torch.Generator().manual_seed(1)
X, Y = (torch.randn(6, n, generator=DRAW, dtype=torch.float64) for n in (4, 4))


def net() -> nn.Sequential:
    torch.manual_seed(2)
    return nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))


def stock_of(model: nn.Module, kind: str) -> optim.Optimizer:
    if kind == "sgd":
        return optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    return optim.Adam(model.parameters(), lr=0.05)


# numbers of the rule -------------------------------------------------------------------------------------------------


def plainly(weights: Tensor, rates: list[float], momenta: list[float]) -> Tensor:
    """What ``out`` is after SGD's own steps with these learning rates and momenta."""
    model = net()
    at = [p.detach().clone() for p in model.parameters()]
    buffers = [torch.zeros_like(p) for p in at]
    for rate, momentum in zip(rates, momenta, strict=True):
        at = [p.requires_grad_() for p in at]
        named = dict(zip(dict(model.named_parameters()), at, strict=True))
        loss = (weights * (torch.func.functional_call(model, named, (X,)) - Y).square()).mean()
        slopes_now = torch.autograd.grad(loss, at)
        buffers = [momentum * b + g for b, g in zip(buffers, slopes_now, strict=True)]
        at = [(p - rate * b).detach() for p, b in zip(at, buffers, strict=True)]
    return mse_loss(torch.func.functional_call(model, dict(zip(named, at, strict=True)), (X,)), Y)


def differences(value: Callable[[Tensor], Tensor]) -> Tensor:
    found = torch.zeros(6, 1)
    for row in range(6):
        step = torch.zeros(6, 1)
        step[row] = 1e-5
        found[row] = (value(torch.ones(6, 1) + step) - value(torch.ones(6, 1) - step)) / 2e-5
    return found


RATES, MOMENTA = [0.3, 0.09, 0.027, 0.0081], [0.9, 0.45, 0.225, 0.1125]


@pytest.mark.parametrize("by", ["in place", "data"])
@pytest.mark.parametrize("where", ["rule", "step", "stock step", "by name"])
def test_a_learning_rate_that_is_written_into_is_that_of_the_step(where: str, by: str) -> None:
    weights, rate, model = torch.ones(6, 1, requires_grad=True), torch.tensor(0.3), net()
    given = {name: rate for name, _ in model.named_parameters()} if where == "by name" else rate
    rule = sgd(0.1 if where == "step" else given, momentum=0.9)
    chosen = optim.SGD(model.parameters(), lr=0.1, momentum=0.9) if where == "stock step" else rule
    with inner(model, chosen, memory="recompute") as block:
        for _ in RATES:
            block.step(lambda: (weights * (model(X) - Y).square()).mean(), **({"lr": rate} if "step" in where else {}))
            (rate if by == "in place" else rate.data).mul_(0.3)
        (found,) = torch.autograd.grad(mse_loss(model(X), Y), weights)
    expected = differences(lambda w: plainly(w, RATES, [0.9] * 4))
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)


def test_a_momentum_that_is_written_into_is_that_of_the_step() -> None:
    weights, momentum, model = torch.ones(6, 1, requires_grad=True), torch.tensor(0.9), net()
    with inner(model, sgd(0.3, momentum=momentum), memory="recompute") as block:
        for _ in MOMENTA:
            block.step(lambda: (weights * (model(X) - Y).square()).mean())
            momentum.mul_(0.5)
        (found,) = torch.autograd.grad(mse_loss(model(X), Y), weights)
    expected = differences(lambda w: plainly(w, [0.3] * 4, MOMENTA))
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("kind", [optim.SGD, optim.Adam])
def test_a_learned_rate_that_is_changed_before_the_reverse_pass(kind: type[optim.Optimizer]) -> None:
    found = []
    for change in (False, True):
        weights, rate, model = torch.ones(6, 1, requires_grad=True), torch.tensor(0.05, requires_grad=True), net()
        with inner(model, kind(model.parameters(), lr=rate), memory="recompute") as block:
            for _ in range(3):
                block.step(lambda: (weights * (model(X) - Y).square()).mean())
            out = mse_loss(model(X), Y)
        if change:
            with torch.no_grad():
                rate.mul_(0.5)
        found.append(torch.autograd.grad(out, [weights, rate]))
    assert all(map(torch.equal, *found)) and float(found[0][1]) != 0


def test_weights_and_states_that_are_written_into_are_refused() -> None:
    def out(change: Callable[[Any, Any], None]) -> Tensor:
        model = net()
        stock = stock_of(model, "sgd")
        stock_step(model, stock)  # the state is the optimiser's, to begin with
        with inner(model, stock, memory="recompute") as block:
            for _ in range(2):
                block.step(lambda: (weights * (model(X) - Y).square()).mean())
            value = mse_loss(model(X).detach() if change is ends else model(X), Y) + model[0].bias.sum()
        change(block, stock)
        return torch.autograd.grad(value, weights)[0]

    def stock_step(model: nn.Module, stock: optim.Optimizer) -> None:
        mse_loss(model(X), Y).backward()
        stock.step()

    def begins(block: Any, stock: Any) -> None:
        block.start["0.weight"].detach().mul_(2)

    def ends(block: Any, stock: Any) -> None:
        block.params["0.weight"].detach().mul_(2)

    def own(block: Any, stock: Any) -> None:
        stock.step()

    weights = torch.ones(6, 1, requires_grad=True)
    assert torch.equal(out(own), out(lambda block, stock: None))
    for change in (begins, ends):
        with pytest.raises(NotRepeatable, match="was changed in place since; change a copy"):
            out(change)


# the rule itself -----------------------------------------------------------------------------------------------------


class Counting:
    """A callback that is another at each call."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, slopes_now: Any) -> Any:
        self.calls += 1
        return {name: (g / self.calls).tanh() for name, g in slopes_now.items()}


def numpys(slopes_now: Any) -> Any:
    return {name: g * float(np.random.standard_normal()) for name, g in slopes_now.items()}


def torchs(slopes_now: Any) -> Any:
    return {name: (g + 0.1 * torch.randn_like(g)).tanh() for name, g in slopes_now.items()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rate", [0.3, 1e-6, 0.0])
@pytest.mark.parametrize("make", [Counting, lambda: numpys], ids=["counting", "numpy"])
def test_a_callback_that_is_another_when_called_again_is_refused(make: Any, rate: float, dtype: torch.dtype) -> None:
    """At a learning rate of 0 only the momentum tells."""
    weights, model = torch.ones(6, 1, requires_grad=True, dtype=dtype), net().to(dtype)
    stock = optim.SGD(model.parameters(), lr=rate, momentum=0.9)
    with inner(model, stock, memory="recompute", gradients=gradient_callback(make())) as block:
        for _ in range(3):
            block.step(lambda: (weights * (model(X.to(dtype)) - Y.to(dtype)).square()).mean())
        out = mse_loss(model(X.to(dtype)), Y.to(dtype))
    with pytest.raises(NotRepeatable, match=r"led elsewhere .*gradient_callback.* or use memory 'store'"):
        torch.autograd.grad(out, weights)


@pytest.mark.parametrize("kind", ["sgd", "adam"])
def test_noise_in_a_callback_is_drawn_again(kind: str) -> None:
    weights = torch.ones(6, 1, requires_grad=True)

    def slope(memory: str, seed: int) -> Tensor:
        model = net()
        torch.manual_seed(seed)
        with inner(model, stock_of(model, kind), memory=memory, gradients=gradient_callback(torchs)) as block:
            for _ in range(3):
                block.step(lambda: (weights * (model(X) - Y).square()).mean())
            return torch.autograd.grad(mse_loss(model(X), Y), weights)[0]

    assert torch.equal(slope("store", 5), slope("recompute", 5))
    assert not torch.allclose(slope("store", 5), slope("store", 6)), "it is noise"


def test_a_schedule_that_is_changed_after_the_steps_is_refused() -> None:
    table, weights, model = torch.tensor([1.0, 0.5, 0.25]), torch.ones(6, 1, requires_grad=True), net()
    with inner(model, scheduled(sgd(0.3), lambda step: table[step]), memory="recompute") as block:
        for _ in range(3):
            block.step(lambda: (weights * (model(X) - Y).square()).mean())
        out = mse_loss(model(X), Y)
    table.mul_(0.5)
    with pytest.raises(NotRepeatable, match="led elsewhere"):
        torch.autograd.grad(out, weights)


class Reversed(torch.autograd.Function):
    """The identity, whose gradient is ``-alpha`` times that."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, alpha: float) -> Tensor:
        ctx.alpha = alpha
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, None]:
        return -ctx.alpha * slope, None


class Turned(nn.Module):
    alpha = 1.0

    def forward(self, x: Tensor) -> Tensor:
        return Reversed.apply(x, self.alpha)


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("kind", ["sgd", "adam"])
def test_an_attribute_that_changes_the_gradient_alone_is_noticed(kind: str, steps: int) -> None:
    torch.manual_seed(0)
    turned = Turned()
    model = nn.Sequential(nn.Linear(4, 4), turned, nn.Tanh(), nn.Linear(4, 4))
    weights = torch.ones(6, 1, requires_grad=True)
    with inner(model, stock_of(model, kind), memory="recompute") as block:
        for step in range(steps):
            turned.alpha = 0.1 * (step + 1)
            block.step(lambda: (weights * (model(X) - Y).square()).mean() + model[0].weight.square().mean())
        out = mse_loss(model(X), Y)
    turned.alpha = 2.0
    with pytest.raises(NotRepeatable, match="led elsewhere"):
        torch.autograd.grad(out, weights)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_of_zero_under_adam_are_the_same_again(dtype: torch.dtype) -> None:
    """A bias before BatchNorm has rounding for a gradient, of which Adam makes a whole step."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.2), nn.Linear(8, 4)).to(dtype)
    x, y, weights = X.to(dtype), Y.to(dtype), torch.ones(6, 1, requires_grad=True, dtype=dtype)
    with inner(model, optim.Adam(model.parameters(), lr=0.01), memory="recompute") as block:
        for _ in range(5):
            block.step(lambda: (weights * (model(x) - y).square()).mean())
        (found,) = torch.autograd.grad(mse_loss(model(x), y), weights)
    assert bool(found.isfinite().all())

"""Blocks beside one another take the steps that torch.optim takes, or those through each other's, and never one for the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn, optim

from metaimpute import inner
from metaimpute.engine import CannotDifferentiate, clip_by_global_norm, momentum

OPTIMIZERS: dict[str, Callable[[Any], optim.Optimizer]] = {
    "sgd": lambda p: optim.SGD(p, lr=0.1),
    "momentum": lambda p: optim.SGD(p, lr=0.1, momentum=0.9),
    "adam": lambda p: optim.Adam(p, lr=0.1),
}
EPS = 1e-6


@pytest.fixture(autouse=True)
def float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(torch.float32)


def factors() -> tuple[nn.Linear, nn.Linear]:
    torch.manual_seed(1)
    return nn.Linear(4, 3, bias=False), nn.Linear(3, 5, bias=False)


TARGET, ROWS = (
    torch.linspace(-1, 1, 30, dtype=torch.float64).view(6, 5),
    torch.linspace(1, -1, 24, dtype=torch.float64).view(6, 4),
)


def loss_of(a: nn.Module, b: nn.Module, c: Tensor) -> Tensor:
    return (c * (b(a(ROWS).tanh()) - TARGET).square()).mean()


def by_torch(make: Callable[[Any], optim.Optimizer], c: Tensor) -> Tensor:
    a, b = factors()
    first, second = make(a.parameters()), make(b.parameters())
    for _ in range(3):
        for one in (first, second):
            first.zero_grad(), second.zero_grad()
            loss_of(a, b, c).backward()
            one.step()
    return loss_of(a, b, torch.ones(())).detach()


def by_blocks(make: Callable[[Any], optim.Optimizer], c: Tensor, others: Any, **how: Any) -> Tensor:
    a, b = factors()
    with inner(a, make(a.parameters()), **how) as first, inner(b, make(b.parameters()), **how) as second:
        for _ in range(3):
            first.step(loss_of(a, b, c), others=others)
            second.step(lambda: loss_of(a, b, c), others=others)
        return loss_of(a, b, torch.ones(()))


@pytest.mark.parametrize("rule", OPTIMIZERS)
def test_turns_are_torchs_and_so_is_their_derivative(rule: str) -> None:
    make, c, direction = OPTIMIZERS[rule], torch.rand(6, 1), torch.randn(6, 1)
    at = c.clone().requires_grad_()
    end = by_blocks(make, at, "constant")
    torch.testing.assert_close(end, by_torch(make, c), rtol=1e-12, atol=1e-14)
    plain = by_blocks(make, c, "constant", differentiable=False)
    torch.testing.assert_close(plain.detach(), end.detach(), rtol=1e-12, atol=1e-14)
    slope = (torch.autograd.grad(end, at)[0] * direction).sum()
    measured = (by_torch(make, c + EPS * direction) - by_torch(make, c - EPS * direction)) / (2 * EPS)
    torch.testing.assert_close(slope, measured, rtol=1e-6, atol=1e-9)


def test_a_step_through_another_blocks_is_the_hypergradients() -> None:
    """An outer block over weights of rows, the inner loop's steps beside it: the outer step is down the total derivative."""
    a, _ = factors()
    share = nn.Linear(1, 6, bias=False)

    def trained(weights: Tensor, net: nn.Module) -> Tensor:
        return (weights * (net(ROWS) - TARGET[:, :3]).square()).mean()

    def held(net: nn.Module) -> Tensor:
        return net(ROWS).cos().mean()

    with inner(share, optim.SGD(share.parameters(), lr=1.0)) as outer:
        start = share.weight
        with inner(a, optim.SGD(a.parameters(), lr=0.1)) as block:
            for _ in range(2):
                block.step(trained(share.weight, a))
            wanted = torch.autograd.grad(held(a), start, retain_graph=True)[0]
            outer.step(held(a), others="through")
            torch.testing.assert_close(share.weight, start - wanted, rtol=1e-12, atol=1e-14)
            assert wanted.abs().max() > 1e-4


def test_a_step_that_does_not_say_which_is_refused_where_they_differ_alone() -> None:
    c = torch.rand(6, 1, requires_grad=True)
    with pytest.raises(CannotDifferentiate, match=r"others='constant'.*others='through'"):
        by_blocks(OPTIMIZERS["sgd"], c, None)
    a, b = factors()
    with inner(a, OPTIMIZERS["sgd"](a.parameters())) as first, inner(b, OPTIMIZERS["sgd"](b.parameters())) as second:
        for _ in range(2):  # each on its own: nothing to choose
            first.step((c[:, 0] * a(ROWS).sum(1)).mean())
            second.step(b(ROWS[:, :3]).cos().mean())
        end = loss_of(a, b, torch.ones(()))
    assert torch.autograd.grad(end, c)[0].abs().max() > 0


def test_words_that_say_neither_and_blocks_without_a_graph_are_refused() -> None:
    a, _ = factors()
    with inner(a, momentum(0.1)) as block, pytest.raises(CannotDifferentiate, match="'constant'"):
        block.step(a(ROWS).mean(), others="constnt")  # type: ignore[arg-type]
    with (
        inner(a, momentum(0.1), differentiable=False) as block,
        pytest.raises(CannotDifferentiate, match="has no derivative"),
    ):
        block.step(a(ROWS).mean(), others="through")


def test_a_history_with_an_infinite_slope_does_not_reach_a_partial_derivative() -> None:
    a, b = factors()
    with inner(a, OPTIMIZERS["sgd"](a.parameters())) as first, inner(b, OPTIMIZERS["sgd"](b.parameters())) as second:
        first.step(loss_of(a, b, torch.ones(())), others="constant")
        second.step(loss_of(a, b, torch.ones(())), others="constant")
        second.replace({"weight": b.weight + (a.weight.sum() * 0).sqrt()})
        moved = first.step(loss_of(a, b, torch.ones(())), others="constant")
        assert all(p.isfinite().all() for p in moved.values())


def hooked(net: nn.Module, kind: str) -> None:
    p = next(net.parameters())
    p.register_hook(lambda g: g * 0) if kind == "hook" else p.register_post_accumulate_grad_hook(lambda p: None)


@pytest.mark.parametrize("kind", ["hook", "after"])
def test_hooks_on_gradients_are_refused(kind: str) -> None:
    a, _ = factors()
    hooked(a, kind)
    with pytest.raises(CannotDifferentiate, match=r"'weight' has a hook.*gradient_callback"), inner(a, momentum(0.1)):
        pass


@pytest.mark.parametrize("change", ["clear", "load"])
def test_an_optimizers_state_that_changes_inside_is_refused(change: str) -> None:
    a, _ = factors()
    optimizer = optim.SGD(a.parameters(), lr=0.1, momentum=0.9)
    a(ROWS).mean().backward()
    optimizer.step()
    before = optimizer.state_dict()
    with pytest.raises(CannotDifferentiate, match="state was changed inside"), inner(a, optimizer) as block:
        block.step(a(ROWS).square().mean())
        optimizer.state.clear() if change == "clear" else optimizer.load_state_dict(before)
        block.step(a(ROWS).square().mean())


def test_a_look_at_an_optimizers_state_and_a_step_made_real_are_no_change() -> None:
    a, _ = factors()
    optimizer = optim.SGD(a.parameters(), lr=0.1, momentum=0.9)
    with inner(a, optimizer, differentiable=False, gradients=clip_by_global_norm(1.0)) as block:
        assert optimizer.state[a.weight] == {}
        block.step(a(ROWS).square().mean())
        block.write_back()
        block.step(a(ROWS).square().mean())
    block.write_back()


@pytest.mark.parametrize("start", [True, False])
def test_flags_that_change_inside_a_block_without_a_graph_are_refused(start: bool) -> None:
    net = nn.Sequential(*factors())
    net[0].requires_grad_(start)
    with (
        pytest.raises(CannotDifferentiate, match="was frozen"),
        inner(net, momentum(0.1), differentiable=False) as block,
    ):
        block.step(net(ROWS).square().mean())
        net[0].requires_grad_(not start)
        block.step(net(ROWS).square().mean())

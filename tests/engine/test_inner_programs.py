"""Programs of the literature as blocks, each against finite differences: the loops that people bring."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, kl_div, log_softmax, mse_loss, softplus

from metaimpute.engine import inner, sgd
from metaimpute.engine.blocks import inside, unused

from .inner_data import check

pytestmark = pytest.mark.usefixtures("float64")
optim = torch.optim


@pytest.fixture(autouse=True)
def _nothing_left_open() -> Iterator[None]:
    torch.manual_seed(4)
    yield
    assert not inside._open
    unused._waiting.clear()


def mlp(ins: int, outs: int, hidden: int = 4) -> nn.Sequential:
    return nn.Sequential(nn.Linear(ins, hidden), nn.Tanh(), nn.Linear(hidden, outs))


def test_unrolled_generative_adversarial_nets() -> None:
    """A generator against the discriminator that it would meet two steps later (Metz et al., ICLR 2017)."""
    generator, judge, noise, real = mlp(2, 3), mlp(3, 1), torch.randn(6, 2), torch.randn(6, 3)
    stock = optim.Adam(judge.parameters(), lr=0.1)
    softplus(judge(real)).mean().backward()
    stock.step()

    def value() -> Tensor:
        with inner(judge, stock) as block:
            for _ in range(2):
                block.step((softplus(-judge(real)) + softplus(judge(generator(noise)))).mean())
            return softplus(-judge(generator(noise))).mean()

    check(value, list(generator.parameters()), rtol=1e-5)


def test_a_teacher_that_learns_from_its_pupil() -> None:
    """Meta pseudo labels (Pham et al., CVPR 2021), by the whole gradient."""
    teacher, pupil, unlabelled = mlp(3, 4), mlp(3, 4), torch.randn(8, 3)
    x, y = torch.randn(5, 3), torch.tensor([0, 1, 2, 3, 0])

    def value() -> Tensor:
        with inner(pupil, optim.SGD(pupil.parameters(), lr=0.5, momentum=0.9), track_start=False) as block:
            for _ in range(2):
                targets = teacher(unlabelled).softmax(1)
                block.step(kl_div(log_softmax(pupil(unlabelled), 1), targets, reduction="batchmean"))
            return cross_entropy(pupil(x), y)

    check(value, list(teacher.parameters()))


class Searched(nn.Module):
    """A mixture of two operations, whose shares are parameters too."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.out = nn.Linear(3, 4), nn.Linear(3, 4), nn.Linear(4, 2)
        self.shares = nn.Parameter(torch.tensor([0.3, -0.2]))

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.shares.softmax(0)
        return self.out(a * self.one(x).tanh() + b * self.two(x).sigmoid())


def test_architecture_search_moves_the_weights_and_leaves_the_shares() -> None:
    """DARTS, second order (Liu et al., ICLR 2019)."""
    net, x, y = Searched(), torch.randn(2, 6, 3), torch.randn(2, 6, 2)
    weights = optim.SGD([p for name, p in net.named_parameters() if name != "shares"], lr=0.3, momentum=0.9)

    def value() -> Tensor:
        with inner(net, weights) as block:
            block.step(mse_loss(net(x[0]), y[0]))
            assert "shares" not in block.params
            return mse_loss(net(x[1]), y[1])

    check(value, [net.shares])


def test_distilled_data() -> None:
    """Learned examples from which a fresh network learns (Wang et al., 2018), their rate learned with them."""
    net, x, y = mlp(3, 2), torch.randn(9, 3), torch.randint(2, (9,))
    images, labels = torch.randn(2, 3, requires_grad=True), torch.tensor([0, 1])
    log_rate = torch.tensor(-1.0, requires_grad=True)

    def value() -> Tensor:
        total = torch.zeros(())
        for seed in range(2):
            torch.manual_seed(seed)
            for part in (net[0], net[2]):
                part.reset_parameters()
            with inner(net, sgd(log_rate.exp()), track_start=False, memory="recompute") as block:
                for _ in range(3):
                    block.step(lambda: cross_entropy(net(images), labels))
                total = total + cross_entropy(net(x), y)
        return total

    check(value, [images, log_rate])


class LearnedRule(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = mlp(2, 1)

    def forward(self, slope: Tensor, momentum: Tensor) -> Tensor:
        both = torch.stack([slope, momentum], -1).reshape(-1, 2)
        return 0.1 * self.net(both).reshape(slope.shape)


def test_a_learned_optimizer_puts_its_own_weights_in_place() -> None:
    """Learning to learn by gradient descent (Andrychowicz et al., NeurIPS 2016), second derivatives included."""
    net, rule, x, y = mlp(3, 1), LearnedRule(), torch.randn(6, 3), torch.randn(6, 1)

    def value() -> Tensor:
        total = torch.zeros(())
        with inner(net, sgd(0.0), track_start=False) as block:
            momentum = {name: torch.zeros_like(p) for name, p in net.named_parameters()}
            for _ in range(3):
                loss = mse_loss(net(x), y)
                total = total + loss
                names, params = zip(*net.named_parameters(), strict=True)
                slopes = torch.autograd.grad(loss, params, create_graph=True)
                momentum = {n: 0.9 * momentum[n] + g for n, g in zip(names, slopes, strict=True)}
                block.replace({n: p - rule(g, momentum[n]) for n, p, g in zip(names, params, slopes, strict=True)})
            return total + mse_loss(net(x), y)

    check(value, list(rule.parameters()))


class Conditioned(nn.Module):
    """A network with a context, which alone is adapted to a task."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.context = mlp(4, 1), nn.Parameter(torch.zeros(2))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(torch.cat([x, self.context.expand(len(x), 2)], 1))


def test_a_context_is_adapted_and_the_network_is_learned() -> None:
    """CAVIA (Zintgraf et al., ICML 2019)."""
    net, x, y = Conditioned(), torch.randn(2, 6, 2), torch.randn(2, 6, 1)

    def value() -> Tensor:
        with inner(net, optim.SGD([net.context], lr=1.0)) as block:
            for _ in range(2):
                block.step(mse_loss(net(x[0]), y[0]))
            return mse_loss(net(x[1]), y[1])

    check(value, [*net.net.parameters(), net.context])


def test_steps_that_stay_between_truncated_gradients() -> None:
    """Online: a rate moves every three steps, and the training goes on; as torch's own steps at those rates."""
    net, x, y = mlp(3, 1), torch.randn(6, 3), torch.randn(6, 1)
    theirs = mlp(3, 1)
    theirs.load_state_dict(net.state_dict())
    log_rate, rates = torch.tensor(-2.0, requires_grad=True), []
    upper = optim.SGD([log_rate], lr=0.5)
    with inner(net, optim.SGD(net.parameters(), lr=1.0, momentum=0.9)) as block:
        for _ in range(4):
            for _ in range(3):
                block.step(mse_loss(net(x), y), lr=log_rate.exp())
                rates.append(float(log_rate.exp()))
            upper.zero_grad()
            mse_loss(net(x), y).backward()
            upper.step()
            block.detach()
    block.write_back()
    stock = optim.SGD(theirs.parameters(), lr=1.0, momentum=0.9)
    for rate in rates:
        stock.param_groups[0]["lr"] = rate
        stock.zero_grad()
        mse_loss(theirs(x), y).backward()
        stock.step()
    assert len(set(rates)) == 4
    for a, b in zip(net.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_reptile_and_a_moving_average_between_blocks() -> None:
    """Weights that are set from a block's end (Nichol et al., 2018), without any gradient."""
    net, x, y = mlp(3, 1), torch.randn(6, 3), torch.randn(6, 1)
    before = [p.detach().clone() for p in net.parameters()]
    with inner(net, sgd(0.3), differentiable=False) as block:
        for _ in range(3):
            block.step(mse_loss(net(x), y))
    with torch.no_grad():
        for name, p in net.named_parameters():
            p.lerp_(block.params[name], 0.5)
    for p, start, end in zip(net.parameters(), before, block.params.values(), strict=True):
        torch.testing.assert_close(p.detach(), (start + end.detach()) / 2)


def test_gradient_descent_by_hand_beside_a_block() -> None:
    """One loss for a block's model and for tensors that the loop moves itself."""
    net, x, y = mlp(3, 1), torch.randn(6, 3), torch.randn(6, 1)
    shift = torch.zeros(3, requires_grad=True)

    def value() -> Tensor:
        now = shift
        with inner(net, sgd(0.3)) as block:
            for _ in range(3):
                loss = mse_loss(net(x + now), y)
                (slope,) = torch.autograd.grad(loss, now, create_graph=True)
                block.step(loss)
                now = now - 0.1 * slope
            return mse_loss(net(x.flip(0) + now), y)

    check(value, [shift, *net.parameters()])


@pytest.mark.parametrize("make", [lambda net: sgd(0.3), lambda net: optim.SGD(net.parameters(), lr=0.3)])
def test_a_generator_of_steps(make: Callable[[Any], Any]) -> None:
    """The block stands in a function that hands out losses."""
    net, x, y = mlp(3, 1), torch.randn(6, 3), torch.randn(6, 1)

    def trained() -> Iterator[Tensor]:
        with inner(net, make(net)) as block:
            while True:
                loss = mse_loss(net(x), y)
                yield loss
                block.step(loss)

    def value() -> Tensor:
        steps = trained()
        losses = [next(steps) for _ in range(4)]
        steps.close()
        return losses[-1]

    check(value, list(net.parameters()))

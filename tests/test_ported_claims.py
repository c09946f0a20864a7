"""What the page on ported scripts says that other packages get wrong without a word, shown on both sides.

Each test also says when one of them has been mended. ``higher`` is always here; the others where they are installed.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import cross_entropy, mse_loss
from torch.utils.checkpoint import checkpoint

from metaimpute.engine import CannotDifferentiate, inner, sgd
from metaimpute.engine.blocks import unused

pytestmark = pytest.mark.usefixtures("float64")
STEPS, RATE = 3, 0.1
X, Y, X_VAL, Y_VAL = (torch.randn(6, n, generator=torch.Generator().manual_seed(i), dtype=torch.float64)
                      for i, n in enumerate((4, 2, 4, 2)))  # fmt: skip


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    unused._waiting.clear()


def inside(call: Callable[[Tensor], Tensor]) -> Tensor:
    return mse_loss(call(X), Y)


def outside(call: Callable[[Tensor], Tensor]) -> Tensor:
    return mse_loss(call(X_VAL), Y_VAL)


# the outer loss after three steps, by each package -------------------------------------------------------------------


def by_higher(net: nn.Module) -> Tensor:
    higher = pytest.importorskip("higher")
    stock = torch.optim.SGD(net.parameters(), lr=RATE)
    with higher.innerloop_ctx(net, stock, copy_initial_weights=False) as (fast, rule):
        for _ in range(STEPS):
            rule.step(inside(fast))
        return outside(fast)


def by_torchopt(net: nn.Module) -> Tensor:
    torchopt = pytest.importorskip("torchopt")
    rule, state = torchopt.MetaSGD(net, lr=RATE), torchopt.extract_state_dict(net)
    for _ in range(STEPS):
        rule.step(inside(net))
    value = outside(net)
    torchopt.recover_state_dict(net, state)
    return value


def by_learn2learn(net: nn.Module) -> Tensor:
    l2l = pytest.importorskip("learn2learn")
    learner = l2l.algorithms.MAML(net, lr=RATE, allow_unused=True).clone()  # else an error where one is unused
    for _ in range(STEPS):
        learner.adapt(inside(learner))
    return outside(learner)


def by_us(net: nn.Module) -> Tensor:
    with inner(net, sgd(RATE)) as block:
        for _ in range(STEPS):
            block.step(inside(net))
        return outside(net)


def by_torch(net: nn.Module) -> Tensor:
    """Trained in place, and put back."""
    kept = [p.detach().clone() for p in net.parameters()]
    stock = torch.optim.SGD(net.parameters(), lr=RATE)
    for _ in range(STEPS):
        stock.zero_grad()
        inside(net).backward()
        stock.step()
    value = outside(net).detach()
    with torch.no_grad():
        for p, before in zip(net.parameters(), kept, strict=True):
            p.copy_(before)
    return value


PACKAGES: dict[str, Callable[[nn.Module], Tensor]] = {
    "higher": by_higher,
    "torchopt": by_torchopt,
    "learn2learn": by_learn2learn,
    "metaimpute": by_us,
}


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)


class Listed(Net):
    """Reaches its parts through a list."""

    def __init__(self) -> None:
        super().__init__()
        self.ways = [self.a, self.b, self.c]

    def forward(self, x: Tensor) -> Tensor:
        for way in self.ways:
            x = way(x).tanh()
        return x


class Bound(Net):
    """Through a partial function; a bound method and a closure are alike."""

    def __init__(self) -> None:
        super().__init__()
        self.through = functools.partial(self.c)

    def forward(self, x: Tensor) -> Tensor:
        return self.through(self.b(self.a(x).tanh()).tanh())


class Tied(Net):
    def __init__(self) -> None:
        super().__init__()
        self.b.weight = self.a.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.b(self.a(x).tanh()).tanh())


class Hooked(Net):
    def __init__(self) -> None:
        super().__init__()
        self.c.register_forward_hook(lambda layer, inputs, output: 2 * output)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.b(self.a(x).tanh()).tanh())


class Checkpointed(Net):
    def forward(self, x: Tensor) -> Tensor:
        def body(x: Tensor) -> Tensor:
            return self.b(self.a(x).tanh())

        return self.c(checkpoint(body, x, use_reentrant=False).tanh())


class BareList(nn.Module):
    """Holds a parameter in a list as well."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 2))
        self.all = [self.weight]

    def forward(self, x: Tensor) -> Tensor:
        return (x @ self.all[0]).tanh()


def weight_norm() -> nn.Module:
    return nn.Sequential(torch.nn.utils.parametrizations.weight_norm(nn.Linear(4, 2)), nn.Tanh())


WRONG: list[tuple[Callable[[], nn.Module], set[str]]] = [
    (Listed, {"higher", "learn2learn"}),
    (Bound, {"higher", "learn2learn"}),
    (BareList, {"higher", "torchopt", "learn2learn"}),
    (Tied, {"torchopt"}),
    (Hooked, {"higher"}),
    (Checkpointed, {"higher", "torchopt", "learn2learn"}),
    (weight_norm, {"higher", "torchopt", "learn2learn"}),
]


@pytest.mark.parametrize("package", PACKAGES)
@pytest.mark.parametrize(("model", "wrong"), WRONG, ids=[model.__name__ for model, _ in WRONG])
def test_models_whose_gradients_come_out_wrong(model: Callable[[], nn.Module], wrong: set[str], package: str) -> None:
    torch.manual_seed(0)
    net = model()
    tensor = max(net.parameters(), key=lambda p: p.numel())
    (found,) = torch.autograd.grad(PACKAGES[package](net), tensor)
    at, slopes, step = tensor.detach().view(-1), [], 1e-5
    for entry in range(4):
        ends = []
        for shift in (step, -2 * step):
            at[entry] += shift
            ends.append(float(by_torch(net)))
        at[entry] += step
        slopes.append((ends[0] - ends[1]) / (2 * step))
    right = torch.allclose(found.reshape(-1)[:4], torch.tensor(slopes), rtol=1e-5, atol=1e-8)
    assert right == (package not in wrong)


@pytest.mark.parametrize("package", PACKAGES)
def test_running_statistics_of_the_model(package: str) -> None:
    net = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))
    before = [b.clone() for b in net.buffers()]
    PACKAGES[package](net)
    kept = all(map(torch.equal, net.buffers(), before))
    assert kept == (package in ("higher", "metaimpute"))


class Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.square()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> Tensor:
        return 2 * slope * ctx.saved_tensors[0]


@pytest.mark.parametrize("package", PACKAGES)
def test_a_function_that_can_be_differentiated_once(package: str) -> None:
    """Where its cotangent is a constant torch returns a constant slope, and everything after it is first-order."""
    weight = nn.Linear(1, 1, bias=False)
    nn.init.constant_(weight.weight, 2.0)

    def loss(call: Callable[[Tensor], Tensor]) -> Tensor:
        return Once.apply(call(torch.ones(1, 1))).sum()

    def value() -> Tensor:
        if package == "higher":
            higher = pytest.importorskip("higher")
            stock = torch.optim.SGD(weight.parameters(), lr=RATE)
            with higher.innerloop_ctx(weight, stock, copy_initial_weights=False) as (fast, rule):
                rule.step(loss(fast))
                return fast(torch.ones(1, 1)).sum()
        if package == "torchopt":
            torchopt = pytest.importorskip("torchopt")
            rule = torchopt.MetaSGD(weight, lr=RATE)
            rule.step(loss(weight))
            return weight(torch.ones(1, 1)).sum()
        if package == "learn2learn":
            learner = pytest.importorskip("learn2learn").algorithms.MAML(weight, lr=RATE).clone()
            learner.adapt(loss(learner))
            return learner(torch.ones(1, 1)).sum()
        with inner(weight, sgd(RATE)) as block:
            block.step(loss(weight))
            return weight(torch.ones(1, 1)).sum()

    first = weight.weight
    if package == "metaimpute":
        with pytest.raises(CannotDifferentiate, match="only once"):
            value()
    else:  # w - 0.1 * 2 w, whose slope is 0.8
        assert float(torch.autograd.grad(value(), first)[0]) == 1.0


def test_what_a_loop_of_higher_does_not_notice() -> None:
    """A loss of old weights, one of the model's own, a scheduler, edits in place, optimizer.step(): each is refused or right here."""
    higher = pytest.importorskip("higher")
    net = nn.Linear(4, 2)
    stock, own = torch.optim.SGD(net.parameters(), lr=RATE), list(net.parameters())
    scheduler = torch.optim.lr_scheduler.StepLR(stock, 1, 0.1)
    with higher.innerloop_ctx(net, stock) as (fast, rule):
        loss = inside(fast)
        rule.step(loss)
        there = list(fast.parameters())
        rule.step(loss)  # of the weights before
        assert all(map(torch.equal, fast.parameters(), there))
        rule.step(sum(p.square().sum() for p in own) + 0 * inside(fast))
        assert all(map(torch.equal, fast.parameters(), there))
        scheduler.step()
        assert rule.param_groups[0]["lr"] == RATE and stock.param_groups[0]["lr"] == pytest.approx(RATE / 10)
        outside(fast).backward()
        assert all(p.grad is None for p in own)  # copy_initial_weights is True where nothing is said
        before = [p.detach().clone() for p in own]
        inside(net).backward()
        stock.step()
        assert not torch.equal(before[0], own[0])


def test_an_edit_in_place_between_steps_of_higher() -> None:
    higher = pytest.importorskip("higher")
    torch.manual_seed(0)
    net, weights = nn.Linear(4, 2), torch.ones(6, 1, requires_grad=True)
    stock = torch.optim.SGD(net.parameters(), lr=RATE)

    def value() -> Tensor:
        with higher.innerloop_ctx(net, stock) as (fast, rule):
            for _ in range(2):
                rule.step((weights * (fast(X) - Y).square()).mean())
                with torch.no_grad():
                    for p in fast.parameters():
                        p.clamp_(-0.2, 0.2)
            return outside(fast)

    (found,) = torch.autograd.grad(value(), weights)
    slopes, at = [], weights.detach()
    for shift in (1e-5, -2e-5):
        at[0] += shift
        slopes.append(float(value()))
    assert float(found[0]) != pytest.approx((slopes[0] - slopes[1]) / 2e-5, rel=0.01)


def test_a_higher_step_of_adam_is_not_torchs() -> None:
    higher = pytest.importorskip("higher")
    torch.manual_seed(0)
    net = nn.Linear(4, 2)
    stock = torch.optim.Adam(net.parameters(), lr=RATE)
    with higher.innerloop_ctx(net, stock) as (fast, rule):
        for _ in range(STEPS):
            rule.step(1e-4 * inside(fast))
        theirs = float(outside(fast))
    with inner(net, stock) as block:
        for _ in range(STEPS):
            block.step(1e-4 * inside(net))
        ours = float(outside(net))
    for _ in range(STEPS):
        stock.zero_grad()
        (1e-4 * inside(net)).backward()
        stock.step()
    assert ours == pytest.approx(float(outside(net)), rel=1e-12) and theirs != pytest.approx(ours, rel=1e-3)


def test_bettys_default_moves_the_lower_weights_and_leaves_the_rate_out() -> None:
    pytest.importorskip("betty", reason="betty-ml is not installed; its numbers cannot be compared with")
    from betty.configs import Config, EngineConfig
    from betty.engine import Engine
    from betty.problems import ImplicitProblem

    data = [(X[:, :3], torch.tensor([0, 1, 2, 0, 1, 2])), (X_VAL[:, :3], torch.tensor([2, 1, 0, 0, 1, 2]))]
    seen: list[Tensor] = []

    class Decays(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.log = nn.Parameter(torch.full((3,), -1.0))

        def forward(self) -> Tensor:
            return self.log.exp()

    classifier, decays = nn.Linear(3, 3), Decays()

    def lower_loss(decay: Tensor) -> Tensor:
        return cross_entropy(classifier(data[0][0]), data[0][1]) + (decay * classifier.weight.square()).sum()

    class Lower(ImplicitProblem):
        def training_step(self, batch: Any) -> Tensor:
            return lower_loss(self.decay())

        def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
            seen.append(classifier.weight.detach().clone())
            super().optimizer_step(*args, **kwargs)
            seen.append(classifier.weight.detach().clone())

    class Upper(ImplicitProblem):
        def training_step(self, batch: Any) -> Tensor:
            return cross_entropy(self.classifier(data[1][0]), data[1][1])

        def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
            seen.append(decays.log.grad.detach().clone())

    lower = Lower("classifier", Config(type="darts", unroll_steps=1), classifier, torch.optim.SGD(classifier.parameters(), lr=RATE),
                  train_data_loader=[data[0]], device="cpu")  # fmt: skip
    upper = Upper("decay", Config(type="darts"), decays, torch.optim.SGD(decays.parameters(), lr=0.0),
                  train_data_loader=[data[1]], device="cpu")  # fmt: skip
    Engine(
        config=EngineConfig(train_iters=2), problems=[upper, lower],
        dependencies={"u2l": {upper: [lower]}, "l2u": {lower: [upper]}},
    ).run()  # fmt: skip
    after_step, theirs, next_start = seen[1], seen[2], seen[3]
    assert float((after_step - next_start).abs().max()) > 1e-4  # nothing stepped in between
    with torch.no_grad():
        classifier.weight.copy_(after_step)
    slopes = torch.autograd.grad(lower_loss(decays()), classifier.parameters(), create_graph=True)
    along = torch.autograd.grad(cross_entropy(classifier(data[1][0]), data[1][1]), classifier.parameters())
    wanted = torch.autograd.grad(slopes, decays.log, [-v for v in along])[0]
    torch.testing.assert_close(theirs, wanted, rtol=0.05, atol=1e-3)  # the inverse Hessian taken for 1

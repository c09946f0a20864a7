"""A block's gradients: against finite differences, against ``unroll`` to the bit, and the steps against torch's own."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss
from torch.utils.checkpoint import checkpoint

from metaimpute.engine import FunctionalModel, from_torch, inner, unroll
from metaimpute.engine.optimizers.torch_twins import TWINS

pytestmark = pytest.mark.usefixtures("float64")
optim = torch.optim
STEPS = 3
KINDS: list[tuple[Any, dict[str, Any]]] = [
    *((kind, {}) for kind in TWINS if kind is not getattr(optim, "Muon", None)),
    (optim.SGD, {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
    (optim.SGD, {"momentum": 0.5, "dampening": 0.3, "maximize": True}),
    (optim.Adam, {"amsgrad": True, "betas": (0.5, 0.7), "weight_decay": 0.1}),
    (optim.RMSprop, {"momentum": 0.9, "centered": True}),
]


class Data:
    def __init__(self, seed: int = 1) -> None:
        draw = torch.Generator().manual_seed(seed)
        self.x, self.y, self.x_val, self.y_val = (
            torch.randn(6, n, generator=draw) for n in (4, 2, 4, 2)
        )  # fmt: skip


@pytest.fixture
def data() -> Data:
    return Data()


def network() -> nn.Sequential:
    torch.manual_seed(2)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2))


def named(case: Any) -> str:
    return case[0].__name__ + ",".join(f"{k}={v}" for k, v in case[1].items()) if isinstance(case, tuple) else str(case)


def differences(value: Callable[[], Tensor], tensor: Tensor, step: float = 1e-4) -> Tensor:
    """Central differences of fourth order along every entry."""
    at, slopes = tensor.detach().view(-1), []
    for entry in range(at.numel()):
        kept, found = float(at[entry]), []
        for shift in (1, -1, 2, -2):
            at[entry] = kept + shift * step
            found.append(float(value()))
        at[entry] = kept
        slopes.append((8 * (found[0] - found[1]) - (found[2] - found[3])) / (12 * step))
    return torch.tensor(slopes).view(tensor.shape)


def check(value: Callable[[], Tensor], tensors: list[Tensor], rtol: float = 1e-6, atol: float = 1e-9) -> None:
    for tensor, slope in zip(tensors, torch.autograd.grad(value(), tensors), strict=True):
        assert float(slope.abs().max()) > 0
        torch.testing.assert_close(slope, differences(value, tensor), rtol=rtol, atol=atol)


def after(net: nn.Module, data: Data) -> Tensor:
    return mse_loss(net(data.x_val), data.y_val)


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


def test_the_model_is_as_it_was(data: Data) -> None:
    net = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 2))
    stock = optim.Adam(net.parameters())
    before, own, kept = copy.deepcopy(net.state_dict()), list(net.parameters()), [dict(vars(m)) for m in net.modules()]
    numbers = list(net.buffers())
    for failing in (False, True):
        try:
            with inner(net, stock) as block:
                block.step(mse_loss(net(data.x), data.y))
                assert not torch.equal(net[0].weight, before["0.weight"])
                assert not torch.equal(net[1].running_mean, before["1.running_mean"])
                assert next(net.parameters()) is block.params["0.weight"]
                if failing:
                    raise KeyboardInterrupt
        except KeyboardInterrupt:
            pass
        assert [id(p) for p in net.parameters()] == [id(p) for p in own] and all(
            map(lambda a, b: a is b, net.buffers(), numbers)
        )
        assert [vars(m).keys() for m in net.modules()] == [k.keys() for k in kept]
        assert all(torch.equal(a, before[name]) for name, a in net.state_dict().items())
        assert "step" not in vars(stock) and not stock.state
    copy.deepcopy(net)


def test_after_the_block_inner_is_the_model_at_its_end(data: Data) -> None:
    net = network()
    with inner(net, optim.SGD(net.parameters(), lr=0.1)) as block:
        block.step(mse_loss(net(data.x), data.y))
        inside = after(net, data)
    assert torch.equal(after(block, data), inside) and not torch.equal(after(net, data), inside)
    wanted = torch.autograd.grad(inside, list(net.parameters()), retain_graph=True)
    for a, b in zip(torch.autograd.grad(after(block, data), list(net.parameters())), wanted, strict=True):
        assert torch.equal(a, b)
    with block:  # and on
        block.step(mse_loss(net(data.x), data.y))
    with inner(net, optim.SGD(net.parameters(), lr=0.1)) as other:
        for _ in range(2):
            other.step(mse_loss(net(data.x), data.y))
    assert all(torch.equal(block.params[name], p) for name, p in other.params.items())


def test_a_changing_loss_with_early_stop_and_evaluations_between(data: Data) -> None:
    net, pull = network(), torch.tensor(0.3, requires_grad=True)

    def value() -> Tensor:
        with inner(net, optim.SGD(net.parameters(), lr=0.2, momentum=0.9)) as block:
            for t in range(10):
                loss = mse_loss(net(data.x[t % 3 :]), data.y[t % 3 :])
                if t % 2:
                    loss = loss + pull * sum(p.square().sum() for p in net.parameters())
                block.step(loss)
                with torch.no_grad():
                    if float(after(net, data)) < 1.3:
                        break
            return after(net, data)

    check(value, [pull, *net.parameters()])


def test_several_models_and_optimizers(data: Data) -> None:
    body, head, weights = nn.Linear(4, 5), nn.Linear(5, 2), torch.rand(6, 1, requires_grad=True)

    def one() -> Tensor:
        both = optim.SGD([{"params": body.parameters(), "lr": 0.3}, {"params": head.parameters()}], lr=0.1)
        with inner([body, head], both) as block:
            for _ in range(STEPS):
                block.step((weights * (head(body(data.x).tanh()) - data.y).square()).mean())
            return mse_loss(head(body(data.x_val).tanh()), data.y_val)

    def two() -> Tensor:
        stock = [optim.SGD(body.parameters(), lr=0.3), optim.SGD(head.parameters(), lr=0.1)]
        with inner([body, head], stock) as block:
            for _ in range(STEPS):
                block.step((weights * (head(body(data.x).tanh()) - data.y).square()).mean())
            return mse_loss(head(body(data.x_val).tanh()), data.y_val)

    def apart() -> Tensor:
        with (
            inner(body, optim.SGD(body.parameters(), lr=0.3)) as first,
            inner(head, optim.SGD(head.parameters(), lr=0.1)) as second,
        ):
            for _ in range(STEPS):
                loss = (weights * (head(body(data.x).tanh()) - data.y).square()).mean()
                first.step(loss)
                second.step(loss)
            return mse_loss(head(body(data.x_val).tanh()), data.y_val)

    check(one, [weights, *body.parameters(), *head.parameters()])
    tensors = [weights, *body.parameters(), *head.parameters()]
    expected = torch.autograd.grad(one(), tensors)
    for other in (two, apart):
        for a, b in zip(torch.autograd.grad(other(), tensors), expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)


def test_an_optimizer_over_a_part_moves_that_part(data: Data) -> None:
    net = network()

    def value() -> Tensor:
        with inner(net, optim.SGD(net[2].parameters(), lr=0.2)) as block:
            for _ in range(STEPS):
                block.step(mse_loss(net(data.x), data.y))
            assert set(block.params) == {"2.weight", "2.bias"} and net[0].weight is first
            return after(net, data)

    first = net[0].weight
    check(value, list(net.parameters()))


def test_frozen_parameters_stay(data: Data) -> None:
    net = network()
    net[0].weight.requires_grad_(False)
    frozen = net[0].weight.clone()
    with inner(net, optim.SGD(net.parameters(), lr=0.2)) as block:
        block.step(mse_loss(net(data.x), data.y))
        assert torch.equal(net[0].weight, frozen)
        after(net, data).backward()
    assert net[0].weight.grad is None and net[0].bias.grad is not None and "0.weight" not in block.params


@pytest.mark.parametrize("memory", ["store", "recompute"])
def test_batch_norm_and_dropout(memory: str, data: Data) -> None:
    torch.manual_seed(3)
    net, weights = (
        nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Dropout(0.3), nn.Linear(5, 2)),
        torch.rand(6, 1, requires_grad=True),
    )

    def value(modes: str, memory: str = memory) -> Tensor:
        torch.manual_seed(5)
        with inner(net, optim.SGD(net.parameters(), lr=0.2), memory=memory) as block:
            for mode in modes:
                net.train(mode == "t")
                block.step(lambda: (weights * (net(data.x) - data.y).square()).mean())
            net.train("e" not in modes)
            return after(net, data)

    tensors = [weights, net[0].weight, net[3].weight]
    check(lambda: value("ttt"), tensors)  # running statistics are constants to autograd, and not to a difference
    wanted = torch.autograd.grad(value("tet", "store"), tensors)
    assert all(map(torch.equal, torch.autograd.grad(value("tet"), tensors), wanted))
    stock = optim.SGD(net.parameters(), lr=0.2)
    net[2].p = 0.0
    with inner(net.train(), stock) as block:
        for _ in range(STEPS):
            block.step(mse_loss(net(data.x), data.y))
        there = [b.clone() for b in net.buffers()]
    block.write_back()
    assert (
        all(torch.equal(a, b) for a, b in zip(net.buffers(), there, strict=True))
        and int(net[1].num_batches_tracked) == 3
    )
    assert all(torch.equal(p, block.params[name]) for name, p in net.named_parameters())


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


def test_detach_truncates(data: Data) -> None:
    net, rate = network(), torch.tensor(0.1, requires_grad=True)
    with inner(net, optim.SGD(net.parameters(), lr=0.5, momentum=0.9)) as block:
        for _ in range(2):
            block.step(mse_loss(net(data.x), data.y), lr=rate)
        block.detach()
        middle = {name: p.detach().clone().requires_grad_() for name, p in block.params.items()}
        buffers = [b.clone() for b in block.state]
        block.step(mse_loss(net(data.x), data.y), lr=rate)
        outer = after(net, data)
    found = torch.autograd.grad(outer, [rate, *net.parameters()], allow_unused=True)
    assert all(g is None for g in found[1:])
    model = FunctionalModel(net)
    slopes = torch.autograd.grad(mse_loss(model(middle, data.x), data.y), list(middle.values()))
    end = {n: p.detach() - rate * (0.9 * b + g) for (n, p), b, g in zip(middle.items(), buffers, slopes, strict=True)}
    wanted = torch.autograd.grad(mse_loss(model(end, data.x_val), data.y_val), rate)[0]
    torch.testing.assert_close(found[0], wanted, rtol=1e-12, atol=0)


def test_rates_per_step_group_and_parameter(data: Data) -> None:
    net, rates = network(), torch.full((STEPS,), 0.1, requires_grad=True)
    lists, names = torch.tensor([0.1, 0.3], requires_grad=True), {n: torch.tensor(0.1 * i, requires_grad=True) for i, n in
             enumerate(("0.weight", "0.bias", "2.weight", "2.bias"), 1)}  # fmt: skip

    def run(per_step: bool, **options: Any) -> Tensor:
        groups = [{"params": net[0].parameters()}, {"params": net[2].parameters()}]
        with inner(net, optim.SGD(groups, lr=0.2, momentum=0.5), **options) as block:
            for t in range(STEPS):
                loss = mse_loss(net(data.x), data.y)
                block.step(loss, lr=rates[t]) if per_step else block.step(loss)
            return after(net, data)

    check(lambda: run(True), [rates])
    check(lambda: run(False, override={"lr": list(lists)}), [lists])
    check(lambda: run(False, override={"lr": names}), list(names.values()))


def test_a_learning_rate_in_the_optimizer_gets_a_gradient(data: Data) -> None:
    net, rate = network(), torch.tensor(0.1, requires_grad=True)

    def value() -> Tensor:
        with inner(net, optim.SGD(net.parameters(), lr=rate)) as block:
            for _ in range(STEPS):
                block.step(mse_loss(net(data.x), data.y))
            return after(net, data)

    check(value, [rate])


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", ["step", "one_cycle", "by_hand"])
def test_schedulers_act_inside_the_block(kind: str, data: Data) -> None:
    def trained(ours: bool) -> list[Tensor]:
        net = network()
        stock = optim.Adam(net.parameters(), lr=0.1)
        scheduler: Any = {
            "step": lambda: optim.lr_scheduler.StepLR(stock, 1, 0.5),
            "one_cycle": lambda: optim.lr_scheduler.OneCycleLR(stock, 0.3, total_steps=8),
            "by_hand": lambda: None,
        }[kind]()

        def turn() -> None:
            if scheduler is None:
                stock.param_groups[0]["lr"] *= 0.7
            else:
                scheduler.step()

        if ours:
            with inner(net, stock) as block:
                for _ in range(5):
                    block.step(mse_loss(net(data.x), data.y))
                    turn()
            return list(block.params.values())
        for _ in range(5):
            stock.zero_grad()
            mse_loss(net(data.x), data.y).backward()
            stock.step()
            turn()
        return list(net.parameters())

    for a, b in zip(trained(True), trained(False), strict=True):
        torch.testing.assert_close(a.detach(), b.detach(), rtol=1e-12, atol=1e-14)


def test_blocks_inside_one_another(data: Data) -> None:
    """The gradient of a step that itself looks through two steps, on one model."""
    net = network()

    def value() -> Tensor:
        slow, fast = optim.SGD(net.parameters(), lr=0.3), optim.SGD(net.parameters(), lr=0.1)
        with inner(net, slow) as outer:
            for _ in range(2):
                with inner(net, fast) as ahead:
                    for _ in range(2):
                        ahead.step(mse_loss(net(data.x), data.y))
                    looked = after(net, data)
                outer.step(looked)
            return mse_loss(net(data.x), data.y)

    check(value, list(net.parameters()))


def test_replaced_weights_are_differentiated_through(data: Data) -> None:
    net, limit = network(), torch.tensor(0.3, requires_grad=True)

    def value() -> Tensor:
        with inner(net, optim.SGD(net.parameters(), lr=0.3, momentum=0.9)) as block:
            for _ in range(STEPS):
                block.step(mse_loss(net(data.x), data.y))
                block.replace({"0.weight": limit * torch.tanh(net[0].weight / limit)})
            return after(net, data)

    check(value, [limit, *net.parameters()])


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


@pytest.mark.parametrize("kind", [nn.RNN, nn.LSTM, nn.GRU])
@pytest.mark.parametrize("direct", [False, True])
def test_recurrent_layers(kind: Any, direct: bool) -> None:
    torch.manual_seed(0)
    net, x = kind(3, 2, 2), torch.randn(5, 4, 3)

    def call() -> Tensor:
        return (net.forward(x) if direct else net(x))[0].square().sum()

    def value() -> Tensor:
        with inner(net, optim.SGD(net.parameters(), lr=0.05)) as block:
            for _ in range(2):
                block.step(call())
            return call()

    check(value, [net.weight_ih_l0, net.bias_hh_l1], rtol=2e-5, atol=1e-8)


def test_a_weight_that_was_taken_from_the_model_is_a_constant_later(data: Data) -> None:
    """Whether or not it has moved since: the loss of a step is differentiated in the weights in place alone."""
    net = nn.ModuleDict({"used": nn.Linear(4, 2), "not_yet": nn.Linear(4, 2)})
    with inner(net, optim.SGD(net.parameters(), lr=1.0)) as block:
        kept = [net["used"].weight, net["not_yet"].weight]
        block.step(mse_loss(net["used"](data.x), data.y))
        now = [net["used"].weight, net["not_yet"].weight]
        block.step(sum((old * new).sum() for old, new in zip(kept, now, strict=True)))
        for old, before, after in zip(kept, now, (net["used"].weight, net["not_yet"].weight), strict=True):
            torch.testing.assert_close(after, before - old)


@pytest.mark.parametrize("kind", ["shared_part", "tied", "list", "unused"])
def test_models_with_more_than_one_way_to_a_weight(kind: str, data: Data) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(1)
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
            self.out = nn.Linear(4, 2)
            if kind == "shared_part":
                self.b = self.a
            if kind == "tied":
                self.b.weight = self.a.weight
            self.ways = [self.a, self.b] if kind == "list" else []

        def forward(self, x: Tensor) -> Tensor:
            if kind == "unused":
                return self.out(self.a(x))
            first, second = self.ways or (self.a, self.b)
            return self.out(second(first(x).tanh()))

    net = Net()

    def value() -> Tensor:
        with inner(net, optim.SGD(net.parameters(), lr=0.2, momentum=0.5)) as block:
            for _ in range(STEPS):
                block.step(mse_loss(net(data.x), data.y))
            return after(net, data)

    check(value, [net.a.weight, net.out.weight])
    with inner(net, optim.SGD(net.parameters(), lr=0.2, momentum=0.5)) as block:
        for _ in range(STEPS):
            block.step(mse_loss(net(data.x), data.y))
    if kind == "unused":
        assert torch.equal(block.params["b.weight"], net.b.weight)


def test_parts_and_methods_called_directly(data: Data) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(1)
            self.encoder, self.head = nn.Sequential(nn.Linear(4, 3), nn.Tanh()), nn.Linear(3, 2)

        def both(self, x: Tensor) -> Tensor:
            return self.head(self.encoder(x))

        def forward(self, x: Tensor) -> Tensor:
            raise AssertionError("never called")

    net = Net()

    def value() -> Tensor:
        with inner(net, optim.SGD(net.parameters(), lr=0.2)) as block:
            block.step(mse_loss(net.both(data.x), data.y))
            block.step(mse_loss(net.head(net.encoder(data.x)), data.y) + 0.1 * net.head.weight.square().sum())
            return mse_loss(nn.functional.linear(net.encoder(data.x_val), net.head.weight, net.head.bias), data.y_val)

    check(value, list(net.parameters()))


@pytest.mark.parametrize("memory", ["store", "recompute"])
@pytest.mark.parametrize("where", ["inside", "around", "around a part"])
def test_activation_checkpoints_find_the_weights_of_their_call(where: str, memory: str, data: Data) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(1)
            self.body, self.head = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.BatchNorm1d(3)), nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            if where == "around":
                return self.head(self.body(x).tanh())
            return self.head(checkpoint(self.body, x, use_reentrant=False).tanh())

    net = Net()
    moved = net.body if where == "around a part" else net

    def call(x: Tensor) -> Tensor:
        return checkpoint(net, x, use_reentrant=False) if where == "around" else net(x)

    def value() -> Tensor:
        with inner(moved, optim.SGD(moved.parameters(), lr=0.3), memory=memory) as block:
            for _ in range(STEPS):
                block.step(lambda: mse_loss(call(data.x), data.y))
            return mse_loss(call(data.x_val), data.y_val)

    check(value, [net.body[0].weight, net.head.weight])
    assert int(net.body[2].num_batches_tracked) == 0


def test_attention_is_differentiated_twice() -> None:
    torch.manual_seed(0)
    net = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True)
    x, target = torch.randn(2, 3, 4), torch.randn(2, 3, 4)

    def value() -> Tensor:
        with inner(net, optim.SGD(net.parameters(), lr=0.1)) as block:
            for _ in range(2):
                block.step(mse_loss(net(x), target))
            return mse_loss(net(x.flip(0)), target)

    check(value, [net.self_attn.out_proj.weight, net.linear1.bias], rtol=2e-5)


def test_rules_of_our_own_and_several_gradients_a_step(data: Data) -> None:
    from metaimpute.engine import chain, clip_by_global_norm, sam, sgd

    net, rho = network(), torch.tensor(0.1, requires_grad=True)

    def value(rule: Any) -> Tensor:
        with inner(net, rule) as block:
            for _ in range(STEPS):
                block.step(lambda: mse_loss(net(data.x), data.y))
            return after(net, data)

    check(lambda: value(sam(0.2, rho=rho)), [rho, *net.parameters()])
    check(lambda: value(chain(clip_by_global_norm(0.5), sgd(0.3))), list(net.parameters()))


def test_classification_and_a_sum_of_losses(data: Data) -> None:
    """The meta-loss of a learned optimiser: the losses along the way."""
    net, rate, labels = network(), torch.tensor(0.1, requires_grad=True), torch.tensor([0, 1, 1, 0, 1, 0])

    def value() -> Tensor:
        total = torch.zeros(())
        with inner(net, optim.SGD(net.parameters(), lr=1.0)) as block:
            for _ in range(STEPS):
                loss = cross_entropy(net(data.x), labels)
                total = total + loss
                block.step(loss, lr=rate)
        return total

    check(value, [rate, *net.parameters()])


@pytest.fixture(autouse=True)
def _nothing_left_open() -> Iterator[None]:
    yield
    from metaimpute.engine import inside

    assert not inside._open

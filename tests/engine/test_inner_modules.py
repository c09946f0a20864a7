"""What a block does with the user's modules: weights in place in every way they are looked at, and out again."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from torch.utils.checkpoint import checkpoint

from metaimpute.engine import inner

from .inner_data import STEPS, Data, after, check, network

pytestmark = pytest.mark.usefixtures("float64")
optim = torch.optim


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


@pytest.mark.parametrize("where", ["inside", "around"])
def test_checkpointed_attention_has_the_kernel_of_its_call_after_the_block_too(where: str) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(1)
            self.inputs, self.out = nn.Linear(4, 12), nn.Linear(4, 2)

        def body(self, x: Tensor) -> Tensor:
            q, k, v = self.inputs(x).view(2, 3, 1, 12).transpose(1, 2).chunk(3, -1)
            return self.out(nn.functional.scaled_dot_product_attention(q, k, v).sum((1, 2)))

        def forward(self, x: Tensor) -> Tensor:
            return checkpoint(self.body, x, use_reentrant=False) if where == "inside" else self.body(x)

    net, x = Net(), torch.randn(2, 3, 4)

    def call() -> Tensor:
        return (net(x) if where == "inside" else checkpoint(net, x, use_reentrant=False)).square().sum()

    def value() -> Tensor:
        with inner(net, optim.SGD(net.parameters(), lr=0.05)) as block:
            for _ in range(2):
                block.step(call())
            return call()

    check(value, [net.inputs.weight, net.out.bias])  # the reverse pass comes after the block


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

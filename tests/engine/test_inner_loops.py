"""What people write between the steps of a loop, in a block."""

from __future__ import annotations

import copy
import threading
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss
from torch.utils.checkpoint import checkpoint

from metaimpute.engine import (
    FunctionalModel,
    UnsupportedOptimizer,
    adam,
    after_training,
    averaged,
    chain,
    clip,
    inner,
    masked,
    optimizers,
    partition,
    per_step,
    sam,
    scale_by_schedule,
    sgd,
    unroll,
)
from metaimpute.engine.blocks import inside

from .inner_data import STEPS, Data, after, check, network

pytestmark = pytest.mark.usefixtures("float64")
optim = torch.optim


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
@pytest.mark.parametrize("kind", ["step", "one_cycle", "by_hand", "tensor"])
def test_schedulers_act_inside_the_block(kind: str, data: Data) -> None:
    def trained(ours: bool) -> list[Tensor]:
        net = network()
        stock = optim.Adam(net.parameters(), lr=torch.tensor(0.1) if kind == "tensor" else 0.1)
        scheduler: Any = {
            "tensor": lambda: optim.lr_scheduler.StepLR(stock, 1, 0.5),  # which writes into it
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
                torch.autograd.grad(after(net, data), list(block.start.values()))  # no number was written over
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


def test_a_block_that_could_not_begin_may_be_tried_again(data: Data) -> None:
    net = network()
    stock = optim.SGD(net.parameters(), lr=0.1)
    handle = stock.register_step_pre_hook(lambda *_: None)
    block = inner(net, stock)
    with pytest.raises(UnsupportedOptimizer, match="step hooks"), block:
        pass
    handle.remove()
    with block:
        block.step(mse_loss(net(data.x), data.y))
        after(net, data).backward()
    assert all(p.grad is not None for p in net.parameters())


def test_the_engine_inside_a_block_begins_at_its_weights(data: Data) -> None:
    """Steps down the loss after two steps ahead, which ``unroll`` takes; and a value of training in the outer loss."""
    net = network()
    before = FunctionalModel(net)

    def fit(model: FunctionalModel) -> Any:
        return lambda th, c, batch: mse_loss(model(th, data.x), data.y)

    def value() -> Tensor:
        with inner(net, optim.SGD(net.parameters(), lr=0.3)) as block:
            for _ in range(2):
                model = FunctionalModel(net)
                ahead = unroll(fit(model), model.params, optimizer=sgd(0.2), steps=2)
                block.step(mse_loss(model(ahead.params, data.x_val), data.y_val))
            later = after_training(fit(before), fit(before), before.params, optimizer=sgd(0.2), steps=2)
            return later + mse_loss(net(data.x), data.y)

    check(value, list(net.parameters()))


def test_threads_take_their_blocks_one_after_another(data: Data) -> None:
    def run(net: nn.Module) -> list[Tensor]:
        with inner(net, optim.SGD(net.parameters(), lr=0.3), memory="recompute") as block:
            for _ in range(STEPS):
                block.step(lambda: mse_loss(nn.functional.dropout(net(data.x), 0.3), data.y))
            outer = after(net, data)
        return list(torch.autograd.grad(outer, list(net.parameters())))

    def many(found: list[list[Tensor]]) -> None:
        torch.set_default_dtype(torch.float64)
        for _ in range(5):
            found.append(run(network()))

    results: list[list[list[Tensor]]] = [[], [], []]
    threads = [threading.Thread(target=many, args=(found,)) for found in results]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [len(found) for found in results] == [5, 5, 5]
    assert all(g.isfinite().all() for found in results for grads in found for g in grads)


def test_a_reverse_pass_in_another_thread_than_the_blocks(data: Data) -> None:
    net, found = network(), []
    with inner(net, optim.SGD(net.parameters(), lr=0.3), memory="recompute") as block:
        for _ in range(STEPS):
            block.step(lambda: mse_loss(net(data.x), data.y))
        outer = after(net, data)
        here = torch.autograd.grad(outer, list(block.start.values()), retain_graph=True)
    users = list(net.parameters())
    thread = threading.Thread(target=lambda: found.extend(torch.autograd.grad(outer, users)))
    thread.start()
    thread.join(60)
    assert all(map(torch.equal, found, here)) and len(found) == len(here)


RULES: dict[str, Any] = {
    **{name: (lambda name=name: optimizers.get(name)(0.05)) for name in optimizers},
    "averaged": lambda: averaged(sgd(0.1)),
    "per_step": lambda: per_step(sgd(0.1, momentum=0.9), lr=[0.3, 0.2, 0.1]),
    "partition": lambda: partition({"*": adam(0.1), "2.*": sgd(0.2)}),
    "masked": lambda: masked(sgd(0.1), "*.weight"),
    "scheduled": lambda: chain(clip(0.5), sgd(0.3), scale_by_schedule([1.0, 0.5, 0.25])),
}


@pytest.mark.parametrize("mode", ["store", "recompute", "first order", "no graph"])
@pytest.mark.parametrize("name", RULES)
def test_every_rule_of_ours_takes_the_steps_of_unroll(name: str, mode: str, data: Data) -> None:
    net = network()
    model, tensors = FunctionalModel(net), list(net.parameters())
    end = unroll(
        lambda th, c, b: mse_loss(model(th, data.x), data.y), model.params, optimizer=RULES[name](), steps=STEPS,
        differentiable=mode != "no graph",
    )  # fmt: skip
    options: Any = {
        "store": {},
        "recompute": {"memory": "recompute"},
        "first order": {"first_order": True},
        "no graph": {"differentiable": False},
    }[mode]
    with inner(net, RULES[name](), **options) as block:
        for _ in range(STEPS):
            block.step(lambda: mse_loss(net(data.x), data.y))
        outer = after(net, data)
    for where, p in end.params.items():
        torch.testing.assert_close(block.params[where].detach(), p.detach(), rtol=1e-13, atol=1e-14)
    if mode in ("store", "recompute"):
        wanted = torch.autograd.grad(mse_loss(model(end.params, data.x_val), data.y_val), tensors)
        assert all(map(torch.equal, torch.autograd.grad(outer, tensors), wanted))


def test_a_step_that_fails_leaves_the_weights_where_they_were(data: Data) -> None:
    net, times = network(), []

    def loss() -> Tensor:
        times.append(1)
        if len(times) == 2:  # at the second of the step's two gradients
            raise KeyboardInterrupt
        return mse_loss(net(data.x), data.y)

    with inner(net, sam(0.1)) as block:
        kept = net[0].weight
        with pytest.raises(KeyboardInterrupt):
            block.step(loss)
        assert net[0].weight is kept and not block.losses
        block.step(loss)
        after(net, data)
    with inner(net, sam(0.1)) as other:
        other.step(lambda: mse_loss(net(data.x), data.y))
        after(net, data)
    assert all(torch.equal(block.params[name], p) for name, p in other.params.items())


@pytest.mark.parametrize("rule", [lambda: sam(0.1), lambda: sgd(0.1)])
def test_statistics_are_updated_once_a_step_whatever_is_evaluated_again(rule: Any, data: Data) -> None:
    net = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))
    stats = []
    for memory in ("store", "recompute"):
        other = copy.deepcopy(net)
        with inner(other, rule(), memory=memory) as block:
            for _ in range(STEPS):
                block.step(lambda: mse_loss(other(data.x), data.y))
            after(other.eval(), data).backward()
        block.write_back()
        assert int(other[1].num_batches_tracked) == STEPS
        stats.append(list(other.buffers()))
    assert all(map(torch.equal, *stats))


def test_another_threads_checkpoints_are_none_of_a_blocks_business(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    net, other, found = network(), network(), []
    monkeypatch.delattr(inside.Inside, "as_then")  # the block's weights have no part in it

    def elsewhere() -> None:
        out = checkpoint(other, data.x, use_reentrant=False).square().sum()
        found.extend(torch.autograd.grad(out, list(other.parameters())))

    with inner(net, sgd(0.1)) as block:
        block.step(mse_loss(net(data.x), data.y))
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join(20)  # while the block holds the engine's lock
        assert len(found) == 4
        after(net, data)
    wanted = torch.autograd.grad(other(data.x).square().sum(), list(other.parameters()))
    assert all(map(torch.equal, found, wanted))

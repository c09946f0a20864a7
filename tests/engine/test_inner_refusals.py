"""What goes wrong in a block as people write it: each case is right, or refused in one sentence."""

from __future__ import annotations

import copy
import io
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import embedding_bag, hardsigmoid, mse_loss, multi_margin_loss
from torch.utils.checkpoint import checkpoint

from metaimpute.engine import (
    CannotDifferentiate,
    NotScalar,
    UnsupportedOptimizer,
    inner,
    sgd,
)

pytestmark = pytest.mark.usefixtures("float64")
DRAW = torch.Generator().manual_seed(1)
X, Y = (torch.randn(6, n, generator=DRAW, dtype=torch.float64) for n in (4, 2))


@pytest.fixture
def net() -> nn.Sequential:
    torch.manual_seed(2)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2))


def loss_of(net: Callable[[Tensor], Tensor]) -> Tensor:
    return mse_loss(net(X), Y)


def stock_of(net: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(net.parameters(), lr=0.1)


# steps ---------------------------------------------------------------------------------------------------------------


def test_steps_taken_in_torchs_way(net: nn.Sequential) -> None:
    stock = stock_of(net)
    with pytest.raises(CannotDifferentiate, match=r"leave out backward\(\) and optimizer.step"), inner(net, stock):
        loss_of(net).backward()
        stock.step()
    stock.step()  # is torch's again
    with pytest.raises(CannotDifferentiate, match=r"backward\(\) was called on it"), inner(net, stock) as block:
        loss = loss_of(net)
        loss.backward()
        block.step(loss)
    with pytest.raises(CannotDifferentiate, match="open block already"), inner(net, stock), inner(net, stock):
        pass


def test_a_step_of_the_outer_of_two_blocks_waits_for_the_end_of_the_inner(net: nn.Sequential) -> None:
    slow, fast = stock_of(net), stock_of(net)
    with inner(net, slow) as outer:
        with inner(net, fast) as ahead:
            ahead.step(loss_of(net))
            looked = loss_of(net)
            with pytest.raises(CannotDifferentiate, match="leave them first"):
                outer.step(looked)
            with pytest.raises(CannotDifferentiate, match="a call of a block waits"):
                outer(X)
        outer.step(looked)
        other = nn.Linear(4, 2)
        with inner(other, sgd(0.1)):
            outer.step(mse_loss(net(X), other(X)))


def test_losses_of_other_weights(net: nn.Sequential) -> None:
    with pytest.raises(CannotDifferentiate, match="before the last step"), inner(net, stock_of(net)) as block:
        loss = loss_of(net)
        block.step(loss)
        block.step(loss)
    other = copy.deepcopy(net)
    with pytest.raises(CannotDifferentiate, match="by another model"), inner(net, stock_of(net)) as block:
        block.step(loss_of(other))
    with (
        pytest.raises(CannotDifferentiate, match="outside no_grad"),
        inner(net, stock_of(net)) as block,
        torch.no_grad(),
    ):
        block.step(loss_of(net))
    outside = list(net.parameters())
    with pytest.raises(CannotDifferentiate, match=r"inner.start"), inner(net, stock_of(net)) as block:
        block.step(loss_of(net) + sum(p.square().sum() for p in outside))


def test_the_first_weights_have_a_name(net: nn.Sequential) -> None:
    ends = []
    for how in ("start", "copy"):
        kept = {name: p.detach().clone() for name, p in net.named_parameters()}
        with inner(net, stock_of(net)) as block:
            for _ in range(3):
                anchor = block.start if how == "start" else kept
                block.step(loss_of(net) + sum((p - anchor[n]).square().sum() for n, p in net.named_parameters()))
        ends.append([p.detach() for p in block.params.values()])
    assert all(map(torch.equal, *ends))


@pytest.mark.parametrize(
    "loss", [lambda net: net(X), lambda net: 1.0, lambda net: lambda: (net(X).sum(), 1)], ids=["rows", "float", "pair"]
)
def test_losses_that_are_no_number(loss: Any, net: nn.Sequential) -> None:
    with pytest.raises(NotScalar, match="must return a scalar"), inner(net, sgd(0.1)) as block:
        block.step(loss(net))


def test_a_step_outside_the_block(net: nn.Sequential) -> None:
    block = inner(net, sgd(0.1))
    with pytest.raises(CannotDifferentiate, match="belongs inside the block"):
        block.step(loss_of(net))
    with pytest.raises(CannotDifferentiate, match="has not begun"):
        block(X)
    with pytest.raises(CannotDifferentiate, match="has begun"):
        block.write_back()
    with block:
        with pytest.raises(CannotDifferentiate, match="open already"), block:
            pass
        block.step(loss_of(net))
    with pytest.raises(CannotDifferentiate, match="belongs inside the block"):
        block.step(loss_of(net))


def test_a_blocks_weights_before_it_has_begun(net: nn.Sequential) -> None:
    with pytest.raises(CannotDifferentiate, match="has not begun"):
        inner(net, sgd(0.1)).params  # noqa: B018


def test_hyperparameters_are_checked_at_the_step(net: nn.Sequential) -> None:
    with inner(net, stock_of(net)) as block:
        for wrong, said in (
            ({"lrr": 0.1}, "no hyperparameter"),
            ({"lr": -1.0}, "at least 0"),
            ({"lr": [0.1] * 2}, "group"),
        ):
            with pytest.raises(UnsupportedOptimizer, match=said):
                block.step(loss_of(net), **wrong)
        assert not block.losses


# weights -------------------------------------------------------------------------------------------------------------


def under_no_grad(net: Any) -> None:
    with torch.no_grad():
        net[0].weight.clamp_(-0.1, 0.1)


def turned_around(net: Any) -> None:
    with torch.no_grad():
        net[0].weight.neg_()


def through_data(net: Any) -> None:
    net[0].weight.data.clamp_(-0.1, 0.1)


def data_set(net: Any) -> None:
    net[0].weight.data = 2 * net[0].weight.data


def loaded(net: Any) -> None:
    net.load_state_dict({name: 0 * p for name, p in net.state_dict().items()})


def another_parameter(net: Any) -> None:
    net[0].weight = nn.Parameter(torch.ones(5, 4))


@pytest.mark.parametrize("at_exit", [False, True])
@pytest.mark.parametrize(
    "edit", [under_no_grad, turned_around, through_data, data_set, loaded, another_parameter, nn.Module.float]
)
@pytest.mark.filterwarnings("ignore:The .grad attribute")
def test_weights_changed_behind_the_blocks_back(edit: Any, at_exit: bool, net: nn.Sequential) -> None:
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    with pytest.raises(CannotDifferentiate, match=r"inner.replace"), inner(net, stock_of(net)) as block:
        block.step(loss_of(net))
        edit(net)
        if not at_exit:
            block.step(loss_of(net) if edit is not nn.Module.float else net(X.float()).sum())
    assert all(torch.equal(p, before[name]) for name, p in net.named_parameters()), "the model's own are untouched"


def test_without_a_graph_weights_may_be_changed(net: nn.Sequential) -> None:
    """As in any training loop; there is no gradient to be wrong."""
    with inner(net, stock_of(net), differentiable=False) as block:
        under_no_grad(net)
        block.step(loss_of(net))
    assert (
        float(block.params["0.weight"].detach().abs().max()) < 0.4 and float(net[0].weight.detach().abs().max()) > 0.4
    )


def test_unfrozen_parameters(net: nn.Sequential) -> None:
    net[0].weight.requires_grad_(False)
    with pytest.raises(CannotDifferentiate, match="was frozen"), inner(net, stock_of(net)) as block:
        block.step(loss_of(net))
        net[0].weight.requires_grad_(True)
        block.step(loss_of(net))
    with (
        pytest.raises(RuntimeError, match="only change requires_grad flags of leaf"),
        inner(net, stock_of(net)) as block,
    ):
        block.step(loss_of(net))
        net[0].requires_grad_(False)  # torch's own refusal


def test_the_best_weights_of_a_loop_are_put_back_with_their_graph(net: nn.Sequential) -> None:
    with inner(net, stock_of(net)) as block:
        best = block.params
        for step in range(4):
            block.step(loss_of(net))
            if step == 1:
                best = block.params
        block.replace(best)
        found = torch.autograd.grad(loss_of(net), list(block.start.values()))
    with inner(net, stock_of(net)) as block:
        for _ in range(2):
            block.step(loss_of(net))
        wanted = torch.autograd.grad(loss_of(net), list(block.start.values()))
    assert all(map(torch.equal, found, wanted))


def test_replace_is_checked(net: nn.Sequential) -> None:
    with inner(net, sgd(0.1)) as block:
        with pytest.raises(
            CannotDifferentiate, match="no parameter that the block moves is named '0.wei'; there are 0.weight"
        ):
            block.replace({"0.wei": X})
        with pytest.raises(CannotDifferentiate, match=r"'0.weight' is a tensor of shape \[5, 4\]"):
            block.replace({"0.weight": X})


@pytest.mark.parametrize("differentiable", [True, False])
def test_copies_of_the_module_inside_the_block(differentiable: bool, net: nn.Sequential) -> None:
    with inner(net, sgd(0.1), differentiable=differentiable) as block:
        block.step(loss_of(net))
        with pytest.raises(CannotDifferentiate, match="copy it before the block"):
            copy.deepcopy(net)
        with pytest.raises(CannotDifferentiate, match="copy it before the block"):
            copy.deepcopy(net[0])
        with pytest.raises(CannotDifferentiate, match="save model.state_dict"):
            torch.save(net, io.BytesIO())
        saved = {name: p.clone() for name, p in net.state_dict().items()}
    copy.deepcopy(net).load_state_dict(saved)
    assert all(torch.equal(block.params[name], p) for name, p in saved.items())


# what there is no second derivative of -------------------------------------------------------------------------------


class Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.square()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> Tensor:
        return 2 * slope * ctx.saved_tensors[0]


@pytest.mark.parametrize(
    ("loss", "said"),
    [
        (lambda h: hardsigmoid(h).square().sum(), "no second derivative of hardsigmoid"),
        (lambda h: multi_margin_loss(h, torch.tensor([0, 1, 1, 0, 1, 1])), "multi_margin_loss"),
        (lambda h: embedding_bag(torch.tensor([[0, 1]]), h).square().sum(), "embedding_bag"),
        (lambda h: Once.apply(h).sum(), "differentiated only once"),
        (lambda h: (Once.apply(h) * h).sum(), "differentiated only once"),
        (lambda h: checkpoint(torch.tanh, h, use_reentrant=True).sum(), "use_reentrant=False"),
    ],
)  # fmt: skip
def test_operations_without_one(loss: Any, said: str, net: nn.Sequential) -> None:
    with pytest.raises(CannotDifferentiate, match=said), inner(net, sgd(0.1)) as block:
        block.step(loss(net(X)))
    if "reentrant" not in said:
        with inner(net, sgd(0.1), first_order=True) as block:
            block.step(loss(net(X)))
            loss_of(net).backward()


def test_a_function_of_once_on_the_way_from_something_else(net: nn.Sequential) -> None:
    weights = torch.rand(6, 1, requires_grad=True)

    def value() -> Tensor:
        with inner(net, sgd(0.1)) as block:
            block.step((Once.apply(weights) * (net(X) - Y).square()).mean())
            return loss_of(net)

    (found,) = torch.autograd.grad(value(), weights)
    step = 1e-5 * torch.eye(6)[2][:, None]
    slopes = []
    for sign in (1, -1):
        with torch.no_grad():
            weights += sign * step
        slopes.append(float(value()))
        with torch.no_grad():
            weights -= sign * step
    assert float(found[2]) == pytest.approx((slopes[0] - slopes[1]) / 2e-5, rel=1e-6)
    with pytest.raises(CannotDifferentiate, match="only once"), inner(net, sgd(0.1)) as block:
        block.step(Once.apply(net(X)).sum())  # the same function, now between the weights and the loss


def test_modules_that_are_tamed(net: nn.Sequential) -> None:
    """Fused kernels without, or with a wrong, second derivative are composed, as in a FunctionalModel."""
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        old = torch.nn.utils.weight_norm(nn.Linear(4, 2))
    new = torch.nn.utils.parametrizations.weight_norm(nn.Linear(4, 2))
    for tamed in (old, new, nn.Sequential(nn.Linear(4, 2), nn.Hardsigmoid())):
        first = next(iter(tamed.parameters()))

        def value(tamed: nn.Module = tamed) -> Tensor:
            with inner(tamed, sgd(0.3)) as block:
                for _ in range(2):
                    block.step(loss_of(tamed))
                return loss_of(tamed)

        (found,) = torch.autograd.grad(value(), first)
        at, step = first.detach().view(-1), 1e-5
        slopes = []
        for sign in (1, -2):
            at[0] += sign * step
            slopes.append(float(value()))
        at[0] += step
        assert float(found.view(-1)[0]) == pytest.approx((slopes[0] - slopes[1]) / (2 * step), rel=1e-5)

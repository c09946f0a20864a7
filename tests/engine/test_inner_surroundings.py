"""What surrounds a block: modules and optimisers that cannot be taken, memory, autocast, scalers, and ends that nothing uses."""

from __future__ import annotations

import copy
import gc
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from torch.utils.checkpoint import checkpoint

from metaimpute.engine import (
    BadMemoryPolicy,
    CannotDifferentiate,
    NotRepeatable,
    UnsupportedOptimizer,
    adam,
    clip_by_global_norm,
    gradient_callback,
    inner,
    sgd,
)
from metaimpute.engine.blocks import unused

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


# modules and optimisers ----------------------------------------------------------------------------------------------


class Hiding(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4, 2))
        self.helper = type("Helper", (), {})()
        self.helper.weight = self.weight

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.helper.weight


def test_modules_that_cannot_be_taken(net: nn.Sequential) -> None:
    in_place = copy.deepcopy(net)
    in_place.compile()
    for module, said in (
        (nn.DataParallel(net), "pass its .module"),
        (torch.compile(net), "the module is compiled"),
        (in_place, "the module is compiled"),
        (nn.Embedding(5, 2, max_norm=1.0), "max_norm"),
        (nn.LazyLinear(2), "no shape yet"),
        ((lambda x: x), "takes an nn.Module"),
        ([], "takes an nn.Module"),
    ):
        with pytest.raises(CannotDifferentiate, match=said), inner(module, sgd(0.1)):  # type: ignore[arg-type]
            pass
    hiding = Hiding()
    with pytest.raises(CannotDifferentiate, match="by a way that cannot be followed"), inner(hiding, sgd(0.1)):
        hiding(X)


def test_a_compiled_wrapper_aside_sees_the_blocks_weights(net: nn.Sequential) -> None:
    compiled = torch.compile(net, backend="eager")
    compiled(X)
    with inner(net, stock_of(net)) as block:
        for _ in range(2):
            block.step(loss_of(compiled))
        assert torch.equal(compiled(X), net(X)) and not torch.equal(compiled(X), 0 * Y)
        end = loss_of(compiled)
    with inner(net, stock_of(net)) as block:
        for _ in range(2):
            block.step(loss_of(net))
        assert torch.equal(end, loss_of(net))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda net: torch.optim.LBFGS(net.parameters()), "no differentiable twin of LBFGS"),
        (lambda net: torch.optim.ASGD(net.parameters()), "no differentiable twin of ASGD"),
        (lambda net: torch.optim.SGD([*net.parameters(), nn.Parameter(X)]), "holds 1 tensors that are no parameters"),
        (lambda net: 0.1, "one of torch.optim, a list of them"),
        (lambda net: sgd, "when it is called"),
        (lambda net: [], "one of torch.optim, a list of them"),
    ],
)
def test_optimizers_that_cannot_be_taken(make: Any, said: str, net: nn.Sequential) -> None:
    with pytest.raises(UnsupportedOptimizer, match=said), inner(net, make(net)):
        pass


def test_nothing_to_move(net: nn.Sequential) -> None:
    stock = stock_of(net)
    net.requires_grad_(False)
    with (
        pytest.raises(UnsupportedOptimizer, match="holds no parameter of the model that requires a gradient"),
        inner(net, stock),
    ):
        pass


# memory --------------------------------------------------------------------------------------------------------------


def test_memory_policies_of_a_block(net: nn.Sequential) -> None:
    for policy in ("checkpoint(2)", "revolve(3)", "auto(1MB)", "recompute(offload)"):
        with pytest.raises(BadMemoryPolicy, match=r"'store' or 'recompute'.*unroll\(\)"):
            inner(net, sgd(0.1), memory=policy)
    with pytest.raises(BadMemoryPolicy, match=r"give it a function"), inner(net, sgd(0.1), memory="recompute") as block:
        block.step(loss_of(net))
    stock = stock_of(net)
    with inner(net, sgd(0.1)), inner(net, stock, memory="recompute") as block:
        with pytest.raises(BadMemoryPolicy, match="no other block is open"):
            block.step(lambda: loss_of(net))


def test_noise_that_is_not_torchs_is_noticed(net: nn.Sequential) -> None:
    with inner(net, sgd(0.1), memory="recompute") as block:
        block.step(lambda: (net(X) * float(np.random.rand())).square().sum())
        outer = loss_of(net)
    with pytest.raises(NotRepeatable, match="draws noise from numpy"):
        outer.backward()


def test_data_changed_between_a_step_and_its_repetition_is_noticed(net: nn.Sequential) -> None:
    data = X.clone()
    with inner(net, sgd(0.1), memory="recompute") as block:
        block.step(lambda: mse_loss(net(data), Y))
        outer = loss_of(net)
    data.mul_(2)
    with pytest.raises(NotRepeatable):
        outer.backward()


def test_several_gradients_a_step_need_a_function(net: nn.Sequential) -> None:
    from metaimpute.engine import sam

    with pytest.raises(UnsupportedOptimizer, match=r"2 gradients a step.*lambda"), inner(net, sam(0.1)) as block:
        block.step(loss_of(net))


# surroundings --------------------------------------------------------------------------------------------------------


def test_inference_mode_and_transforms(net: nn.Sequential) -> None:
    with torch.inference_mode(), inner(net, adam(0.1)) as block:
        block.step(loss_of(net))
    assert all(p.is_leaf for p in block.params.values())

    def through(factor: Tensor) -> Tensor:
        with inner(net, sgd(0.1)) as block:
            block.step(factor * loss_of(net))
            return loss_of(net)

    with pytest.raises(CannotDifferentiate, match="torch.func transforms"):
        torch.func.grad(through)(torch.tensor(1.0))


@pytest.mark.parametrize("memory", ["store", "recompute"])
def test_autocast_may_be_around_a_loss(memory: str, net: nn.Sequential) -> None:
    torch.set_default_dtype(torch.float32)
    net, weights, x, y = net.float(), torch.rand(6, 1, requires_grad=True), X.float(), Y.float()

    def value(low: bool, memory: str) -> Tensor:
        def loss() -> Tensor:
            out = net(x)
            assert out.dtype == (torch.bfloat16 if low else torch.float32)
            return (weights * (out.float() - y).square()).mean()

        with inner(net, stock_of(net), memory=memory) as block:
            for _ in range(3):
                with torch.autocast("cpu", torch.bfloat16, enabled=low):
                    block.step(loss)
            assert all(p.dtype == torch.float32 for p in block.params.values())
            return mse_loss(net(x), y)

    tensors = [weights, *net.parameters()]
    low = torch.autograd.grad(value(True, memory), tensors)
    for a, b, c in zip(
        low,
        torch.autograd.grad(value(False, "store"), tensors),
        torch.autograd.grad(value(True, "store"), tensors),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=0.05, atol=5e-3)
        assert torch.equal(a, c)


def test_a_loss_that_a_scaler_has_scaled(net: nn.Sequential) -> None:
    for enabled in (True, False):
        scaler = torch.amp.GradScaler("cpu", enabled=enabled)
        with inner(net, stock_of(net)) as block:
            scaled = scaler.scale(2 * loss_of(net))
            if enabled:
                with pytest.raises(CannotDifferentiate, match="scaled by a GradScaler"):
                    block.step(scaled)
            else:
                block.step(scaled)
            block.step(2 * loss_of(net))
    assert torch.amp.GradScaler.scale.__module__ == "torch.amp.grad_scaler"


def test_gradients_pass_through_transforms_on_their_way(net: nn.Sequential) -> None:
    """Clipping, which in a loop of torch stands between backward() and step()."""
    seen: list[list[Tensor]] = []

    def look(grads: Any) -> None:
        seen.append([g.detach().clone() for g in grads.values()])

    stock = torch.optim.Adam(net.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(stock, 1, 0.5)
    with inner(net, stock, gradients=[gradient_callback(look), clip_by_global_norm(0.1)]) as block:
        for _ in range(3):
            block.step(loss_of(net))
            scheduler.step()
        end = [p.detach() for p in block.params.values()]
    stock.param_groups[0]["lr"] = 0.1
    for turn in range(3):
        stock.zero_grad()
        loss_of(net).backward()
        for p, g in zip(net.parameters(), seen[turn], strict=True):
            torch.testing.assert_close(p.grad, g, rtol=1e-10, atol=1e-12)
        nn.utils.clip_grad_norm_(net.parameters(), 0.1)
        stock.step()
        stock.param_groups[0]["lr"] *= 0.5
    for a, b in zip(end, net.parameters(), strict=True):
        torch.testing.assert_close(a, b.detach(), rtol=1e-5, atol=1e-7)  # torch adds 1e-6 to the norm


# ends ----------------------------------------------------------------------------------------------------------------


def test_an_end_that_nothing_uses_is_warned_of(net: nn.Sequential) -> None:
    def trained() -> Any:
        with inner(net, stock_of(net)) as block:
            block.step(loss_of(net))
        return block

    def turn() -> list[str]:
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            unused.warn_of_unused()
        return [str(one.message) for one in found]

    block = trained()
    assert not turn()  # block(x) may come yet
    del block
    assert "compute the outer loss inside the block" in turn()[0] and not turn()
    for use in (lambda block: block(X), lambda block: block.params, lambda block: block.write_back()):
        block = trained()
        use(block)
        del block
        assert not turn()


@pytest.mark.parametrize("memory", ["store", "recompute"])
def test_an_outer_loss_that_reads_the_weights_themselves_uses_the_end(memory: str, net: nn.Sequential) -> None:
    def turn(of_the_end: bool) -> list[str]:
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            with inner(net, stock_of(net), memory=memory) as block:
                block.step(lambda: loss_of(net))
                early = net[0].weight.square().sum()
                block.step(lambda: loss_of(net))
                (net[0].weight.square().sum() if of_the_end else early).backward()
            del block
            unused.warn_of_unused()
        return [str(one.message) for one in found]

    assert not turn(True)
    assert "nothing has used the weights" in turn(False)[0]


@pytest.mark.parametrize("kind", ["store", "recompute", "checkpoint"])
def test_blocks_leave_nothing_behind(kind: str, net: nn.Sequential) -> None:
    """Whether or not a gradient is taken in the end, and whether or not the block is there still when it is."""
    from metaimpute.engine.live_memory import LiveBytes

    def loss() -> Tensor:
        return mse_loss(checkpoint(net, X, use_reentrant=False), Y) if kind == "checkpoint" else loss_of(net)

    def once(backward: bool) -> list[Tensor]:
        memory = "recompute" if kind == "recompute" else "store"
        with inner(net, torch.optim.Adam(net.parameters()), memory=memory) as block:
            for _ in range(3):
                block.step(loss)
            outer = loss_of(net)
            here = torch.autograd.grad(outer, list(block.start.values()), retain_graph=True)
        del block
        gc.collect()
        if backward:
            later = torch.autograd.grad(outer, list(net.parameters()))
            assert all(map(torch.equal, here, later))
        return []

    once(True)
    with LiveBytes() as live:
        for backward in (True, False, False, False):
            once(backward)
            gc.collect()
            assert live.now == 0

"""Steps of a block that are taken again in the reverse pass: what has changed since is put back, or refused in one sentence."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn, optim
from torch.nn.functional import mse_loss

from metaimpute.engine import NotRepeatable, inner

pytestmark = pytest.mark.usefixtures("float64")
DRAW = torch.Generator().manual_seed(1)
X, Y = (torch.randn(6, n, generator=DRAW, dtype=torch.float64) for n in (4, 4))
MEMORIES = ("store", "recompute")


def net(seed: int = 2) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))


def stock_of(model: nn.Module, kind: str) -> optim.Optimizer:
    if kind == "sgd":
        return optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    return optim.Adam(model.parameters(), lr=0.05)


def slopes(program: Callable[[str, Tensor], Tensor]) -> list[Tensor]:
    """Gradients of one program under both memories."""
    found = []
    for memory in MEMORIES:
        weights = torch.ones(6, 1, requires_grad=True)
        found.append(torch.autograd.grad(program(memory, weights), weights)[0])
    return found


# flags ---------------------------------------------------------------------------------------------------------------


class Scaled(nn.Module):
    """Entry by entry, so that all that is saved has one shape."""

    def __init__(self) -> None:
        super().__init__()
        self.factors = nn.Parameter(torch.linspace(-1, 1, 4))

    def forward(self, x: Tensor) -> Tensor:
        return (x * self.factors).tanh()


JUDGES: dict[str, Callable[[], nn.Module]] = {
    "square": lambda: nn.Linear(4, 4), "narrow": lambda: nn.Linear(4, 2), "entries": Scaled,
    "deep": lambda: nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 4)),
}  # fmt: skip


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("kind", ["sgd", "adam"])
@pytest.mark.parametrize("judge", JUDGES)
def test_a_frozen_judge_that_learns_before_the_reverse_pass_is_refused(judge: str, kind: str, steps: int) -> None:
    def program(memory: str, weights: Tensor) -> Tensor:
        made, model = JUDGES[judge]().requires_grad_(False), net()
        with inner(model, stock_of(model, kind), memory=memory) as block:
            for _ in range(steps):
                block.step(lambda: (weights * made(model(X).tanh()).tanh().square()).mean())
            out = model(X).square().mean()
        made.requires_grad_(True)
        return torch.autograd.grad(out, weights)[0]

    weights = torch.ones(6, 1, requires_grad=True)
    assert bool(program("store", weights).isfinite().all())
    with pytest.raises(NotRepeatable, match=r"requires a gradient now .* set the flags .* 'store'"):
        program("recompute", weights)


@pytest.mark.parametrize("toggled", [True, False])
@pytest.mark.parametrize("kind", ["sgd", "adam"])
@pytest.mark.parametrize("judge", JUDGES)
def test_a_judge_that_is_frozen_since_is_as_it_was(judge: str, kind: str, toggled: bool) -> None:
    def program(memory: str, weights: Tensor) -> Tensor:
        torch.manual_seed(3)
        made, model = JUDGES[judge](), net()
        with inner(model, stock_of(model, kind), memory=memory) as block:
            for step in range(3):
                made.requires_grad_(not toggled or step != 1)
                block.step(lambda: (weights * made(model(X).tanh()).tanh().square()).mean())
            out = model(X).square().mean()
        made.requires_grad_(False)
        found = torch.autograd.grad(out, weights)[0]
        assert not any(p.requires_grad for p in made.parameters())
        return (found.detach() * weights).sum()

    found = slopes(program)
    assert torch.equal(*found) and float(found[0].norm()) > 0


@pytest.mark.parametrize("later", [True, False])
@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize("kind", ["sgd", "adam"])
def test_the_models_own_flags_are_as_they_were(kind: str, inside: bool, later: bool) -> None:
    def program(memory: str, weights: Tensor) -> Tensor:
        model = net().append(Scaled())
        model[0].requires_grad_(not later)
        with inner(model, stock_of(model[2], kind), memory=memory) as block:
            for _ in range(3):
                block.step(lambda: (weights * (model(X) - Y).square()).mean())
            out = mse_loss(model(X), Y)
            if inside:
                model[0].requires_grad_(later)
        if not inside:
            model.requires_grad_(later)
        return (torch.autograd.grad(out, weights)[0].detach() * weights).sum()

    found = slopes(program)
    assert torch.equal(*found) and float(found[0].norm()) > 0


def test_data_that_is_made_learnable_after_the_steps_is_refused() -> None:
    rows, weights, model = torch.ones(6, 1), torch.ones(6, 1, requires_grad=True), net()
    with inner(model, stock_of(model, "sgd"), memory="recompute") as block:
        for _ in range(3):
            block.step(lambda: (weights * rows * (model(X) - Y).square()).mean())
        out = mse_loss(model(X), Y)
    rows.requires_grad_(True)
    with pytest.raises(NotRepeatable, match=r"a tensor of shape \[6, 1\] that a step uses requires a gradient now"):
        torch.autograd.grad(out, weights)


def test_tensors_that_a_function_makes_each_time_are_no_others() -> None:
    def program(memory: str, weights: Tensor) -> Tensor:
        model = net()

        def loss() -> Tensor:
            rows = X.clone().requires_grad_()
            (slope,) = torch.autograd.grad(model(rows).square().sum(), rows, create_graph=True)
            return (weights * (model(rows) - Y).square()).mean() + 0.1 * slope.square().mean()

        with inner(model, stock_of(model, "adam"), memory=memory) as block:
            for _ in range(3):
                block.step(loss)
            return mse_loss(model(X), Y)

    assert torch.equal(*slopes(program))


@pytest.mark.parametrize("change", ["more", "shape", "kind"])
def test_a_function_that_goes_another_way_is_refused(change: str) -> None:
    """The loss is the same to the bit, and so are all flags."""
    weights, model, turn = torch.ones(6, 1, requires_grad=True), net(), [0]

    def loss() -> Tensor:
        turn[0] += 1
        more = weights.sum()
        if turn[0] > 2:
            extra = {
                "more": lambda: weights.tanh().sum(),
                "shape": lambda: weights.view(3, 2).exp().sum(),
                "kind": lambda: weights.float().exp().sum().double(),
            }[change]()
            more = more + (extra - extra.detach())
        elif change != "more":
            extra = weights.exp().sum()
            more = more + (extra - extra.detach())
        return (weights * (model(X) - Y).square()).mean() + 0 * more

    with inner(model, stock_of(model, "sgd"), memory="recompute") as block:
        for _ in range(2):
            block.step(loss)
        out = mse_loss(model(X), Y)
    with pytest.raises(NotRepeatable, match=r"that was taken again saved .* where it saved .*'store'"):
        torch.autograd.grad(out, weights)

"""What is evaluated later sees what it saw at first, or is refused: captured tensors, loop variables, orders of keys."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from metaimpute import implicit, inner
from metaimpute.engine import BadMemoryPolicy, CannotDifferentiate, UnsupportedOptimizer, custom_root

torch.manual_seed(0)
X, Y = torch.randn(8, 3).double(), torch.randn(8, 1).double()


def net() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double()


@pytest.mark.parametrize("kind", ["weights", "start", "output"])
@pytest.mark.parametrize("track", [True, False])
def test_a_step_taken_again_refuses_what_was_computed_from_the_weights_outside(kind: str, track: bool) -> None:
    model = net()
    lr = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
    block = inner(model, torch.optim.SGD(model.parameters(), lr=0.1), memory="recompute", track_start=track)
    with pytest.raises(BadMemoryPolicy, match="computed from the block's weights outside"), block:
        for step in range(3):
            outside = {
                "weights": lambda: model[0].weight.sum(),
                "start": lambda: block.start["0.weight"].square().sum(),
                "output": lambda: model(X).mean(),
            }[kind]()
            block.step(lambda: (model(X) - Y).square().mean() + outside, lr=lr)
            assert step < 1 or kind != "start"


def test_a_step_taken_again_takes_what_was_computed_from_other_tensors() -> None:
    found = []
    for memory in ("store", "recompute"):
        model = net()
        c = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
        with inner(model, torch.optim.SGD(model.parameters(), lr=0.1), memory=memory) as block:
            for _ in range(3):
                weights = (c * X[:, :1]).sigmoid()
                kept = model[0].weight.detach().clone()
                block.step(
                    lambda w=weights, k=kept: (
                        (w * (model(X) - Y).square()).mean()
                        + (model[0].weight - k).square().sum()
                        + model[2].weight.sum() * c
                    )
                )
            outer = model(X).square().mean()
        found.append(torch.stack(torch.autograd.grad(outer, [c])))
    torch.testing.assert_close(found[0], found[1], rtol=1e-12, atol=1e-14)


def test_a_buffer_that_requires_a_gradient_is_refused() -> None:
    model = net()
    model.register_buffer("mask", torch.ones(3).double().requires_grad_() * 1.0)
    with pytest.raises(CannotDifferentiate, match="buffer 'mask' of a Sequential requires a gradient"):
        with inner(model, torch.optim.SGD(model.parameters(), lr=0.1)):
            pass


def test_parameters_that_come_later_or_twice_are_refused() -> None:
    model = net()
    optimizer = torch.optim.SGD(model[0].parameters(), lr=0.1)
    with pytest.raises(UnsupportedOptimizer, match="add_param_group"), inner(model, optimizer) as block:
        block.step((model(X) - Y).square().mean())
        optimizer.add_param_group({"params": list(model[2].parameters())})
        block.step((model(X) - Y).square().mean())
    both = [torch.optim.SGD(model.parameters(), lr=0.1), torch.optim.SGD(model[2].parameters(), lr=0.3)]
    with pytest.raises(UnsupportedOptimizer, match="two optimizers hold the same parameter"), inner(model, both):
        pass


def ridge(x: Tensor, y: Tensor, strength: Tensor) -> Tensor:
    count = len(x)
    return torch.linalg.solve(x.T @ x / count + strength.exp() * torch.eye(x.shape[1]).double(), x.T @ y / count)


@pytest.mark.parametrize("how", ["implicit", "custom_root"])
def test_a_condition_in_a_loop_is_that_of_its_turn(how: str) -> None:
    torch.manual_seed(2)
    tasks = [(torch.randn(10, 4).double(), torch.randn(10).double()) for _ in range(3)]
    found = []
    for closed in (True, False):
        strength = torch.tensor(-1.0, dtype=torch.float64, requires_grad=True)
        total = torch.zeros((), dtype=torch.float64)
        for x, y in tasks:

            def objective(w: Tensor, s: Tensor) -> Tensor:
                return (x @ w - y).square().mean() / 2 + s.exp() * w.square().sum() / 2

            if closed:
                w = ridge(x, y, strength)
            elif how == "implicit":
                w = implicit(ridge(x, y, strength).detach(), strength, objective=objective)
            else:
                solver = custom_root(objective=objective)(lambda start, s: ridge(x, y, s))
                w = solver(torch.zeros(4).double(), strength)
            total = total + (x @ w - y).pow(4).mean()
        found.append(torch.autograd.grad(total, strength)[0])
    torch.testing.assert_close(found[1], found[0], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", ["fixed_point_fn", "optimality_fn"])
def test_dicts_of_a_condition_go_by_their_keys(kind: str) -> None:
    t = torch.tensor(0.0, dtype=torch.float64, requires_grad=True)
    zero = torch.zeros((), dtype=torch.float64)

    def step(z: Any, t: Tensor) -> Any:
        return {"b": 0.5 * z["b"] + t, "a": 0.2 * z["a"] + 0.1 * t}

    def condition(z: Any, t: Tensor) -> Any:
        after = step(z, t)
        return {"b": z["b"] - after["b"], "a": z["a"] - after["a"]}

    asked: dict[str, Any] = {kind: step if kind == "fixed_point_fn" else condition}
    z = implicit({"a": zero, "b": zero}, t, **asked)
    slopes = [torch.autograd.grad(z[key], t, retain_graph=True)[0].item() for key in "ab"]
    assert slopes == pytest.approx([0.125, 2.0], abs=1e-9)
    with pytest.raises(CannotDifferentiate, match=r"keys \['a', 'b'\], and the solution has \['x', 'y'\]"):
        implicit({"x": zero, "y": zero}, t, **{kind: lambda z, t: step({"a": z["x"], "b": z["y"]}, t)})

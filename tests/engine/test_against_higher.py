"""Cases in which the ``higher`` package fails or is silently wrong, and this engine is right.

Each test shows both sides, so that it also says when ``higher`` has been mended.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from metaimpute.engine import Batches, BilevelMap, FunctionalModel, adam, from_torch, hypergradient, unroll
from metaimpute.engine.optimizers import InnerOptimizer

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    higher = pytest.importorskip("higher")

pytestmark = pytest.mark.usefixtures("float64")
X, Y, X_VAL, Y_VAL = (torch.randn(6, n, generator=torch.Generator().manual_seed(i), dtype=torch.float64) for i, n in
                      enumerate((4, 1, 4, 1)))  # fmt: skip
STEPS = 3


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def network() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 1))


def loss_of(call: Callable[[Tensor], Tensor]) -> Tensor:
    return (call(X) - Y).square().mean()


def outer_of(call: Callable[[Tensor], Tensor]) -> Tensor:
    return (call(X_VAL) - Y_VAL).square().mean()


def higher_end(module: nn.Module, stock: torch.optim.Optimizer, **options: Any) -> Any:
    with higher.innerloop_ctx(module, stock, copy_initial_weights=False, **options) as (fast, rule):
        for _ in range(STEPS):
            rule.step(loss_of(fast))
        return fast, outer_of(fast)


def our_end(module: nn.Module, rule: InnerOptimizer) -> Tensor:
    model = FunctionalModel(module)
    end = unroll(
        lambda th, c, b: loss_of(lambda x: model(th, x)), model.params, None, [None], rule, STEPS, differentiable=False
    )
    return outer_of(lambda x: model(end.params, x))


def torch_end(module: nn.Module, stock: torch.optim.Optimizer) -> Tensor:
    for _ in range(STEPS):
        stock.zero_grad()
        loss_of(module).backward()
        stock.step()
    return outer_of(module)


def test_the_gradient_with_respect_to_adams_beta2() -> None:
    module, beta2 = network(), torch.tensor(0.9)
    model = FunctionalModel(module)

    def inner(th: Any, c: Any, b: Any) -> Tensor:
        return loss_of(lambda x: model(th, x))

    def outer(th: Any, c: Any, b: Any) -> Tensor:
        return outer_of(lambda x: model(th, x))

    problem = BilevelMap(inner, outer, model.params, {}, Batches([None], None), adam(0.1, (0.9, beta2)), STEPS)
    h = 1e-5
    up, down = (float(problem.value(hyper={**problem.optimizer.hyper, "beta2": beta2 + s * h})) for s in (1, -1))
    truth = (up - down) / (2 * h)
    found = hypergradient(inner, outer, model.params, {}, problem.batches, problem.optimizer, steps=STEPS)
    assert float(found.grad_optimizer["beta2"]) == pytest.approx(truth, rel=1e-6)
    leaf = torch.tensor(0.9, requires_grad=True)
    stock = torch.optim.Adam(module.parameters(), lr=0.1)
    _, value = higher_end(module, stock, override={"betas": [(0.9, leaf)]})
    theirs = torch.autograd.grad(value, leaf, allow_unused=True)[0]
    assert theirs is None or float(theirs) != pytest.approx(truth, rel=0.05)


def test_adamw() -> None:
    module = network()
    twin = from_torch(torch.optim.AdamW(module.parameters(), lr=0.1), dict(module.named_parameters()))
    ours = our_end(module, twin)
    other = copy.deepcopy(module)
    with pytest.raises(ValueError, match="not registered|not supported|AdamW"):
        higher_end(other, torch.optim.AdamW(other.parameters(), lr=0.1))
    torch.testing.assert_close(
        ours, torch_end(module, torch.optim.AdamW(module.parameters(), lr=0.1)), rtol=1e-12, atol=0
    )


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (torch.optim.SGD, {"lr": 0.1, "maximize": True}), (torch.optim.Adam, {"lr": 0.1, "maximize": True}),
        (torch.optim.Adam, {"lr": 0.1, "weight_decay": 0.5, "decoupled_weight_decay": True}),
    ],
)  # fmt: skip
def test_options_that_higher_ignores(kind: Any, options: dict[str, Any]) -> None:
    module = network()
    ours = our_end(module, from_torch(kind(module.parameters(), **options), dict(module.named_parameters())))
    other = copy.deepcopy(module)
    _, theirs = higher_end(other, kind(other.parameters(), **options))
    truth = torch_end(module, kind(module.parameters(), **options))
    torch.testing.assert_close(ours, truth, rtol=1e-12, atol=0)
    assert float(theirs) != pytest.approx(float(truth), rel=1e-3)


def test_forward_hooks() -> None:
    module = network()
    module[0].register_forward_hook(lambda layer, inputs, output: 3 * output)  # type: ignore[index]
    stock = torch.optim.SGD(module.parameters(), lr=0.1)
    ours = our_end(module, from_torch(stock, dict(module.named_parameters())))
    other = copy.deepcopy(module)
    _, theirs = higher_end(other, torch.optim.SGD(other.parameters(), lr=0.1))
    truth = torch_end(module, stock)
    torch.testing.assert_close(ours, truth, rtol=1e-12, atol=0)
    assert float(theirs) != pytest.approx(float(truth), rel=1e-3)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(4, 24), nn.Linear(8, 1)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x[:, None].expand(-1, 3, -1)).view(len(x), 3, 1, 24).transpose(1, 2).chunk(3, -1)
        return self.out(nn.functional.scaled_dot_product_attention(q, k, v).mean((1, 2)))


def test_attention_without_the_caller_doing_anything() -> None:
    torch.manual_seed(0)
    module = Attention()
    model = FunctionalModel(module)
    weights = torch.ones(6)

    def inner(th: Any, c: Any, b: Any) -> Tensor:
        return (c * (model(th, X) - Y).square()[:, 0]).mean()

    def outer(th: Any, c: Any, b: Any) -> Tensor:
        return outer_of(lambda x: model(th, x))

    rule = from_torch(torch.optim.SGD(module.parameters(), lr=0.1), dict(module.named_parameters()))
    found = hypergradient(inner, outer, model.params, weights, Batches([None], None), rule, steps=2)
    problem = BilevelMap(inner, outer, model.params, weights, Batches([None], None), rule, 2)
    step = 1e-5 * torch.eye(6)[2]
    truth = float(problem.value(c=weights + step) - problem.value(c=weights - step)) / 2e-5
    assert float(found.grad_c[2]) == pytest.approx(truth, rel=1e-6)
    with higher.innerloop_ctx(module, torch.optim.SGD(module.parameters(), lr=0.1)) as (fast, rule_of_higher):
        with pytest.raises(RuntimeError, match="not implemented"):
            for _ in range(2):
                rule_of_higher.step((weights.requires_grad_() * (fast(X) - Y).square()[:, 0]).mean())
            torch.autograd.grad(outer_of(fast), weights)

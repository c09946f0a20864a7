"""Stacks of problems under vmap, mixed precision, compiled models: the same hypergradient, or a plain refusal."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metaimpute.engine import (
    Batches,
    EstimatorError,
    FunctionalModel,
    hypergradient,
    optimizers,
    sgd,
    stack,
    stacked,
    unstack,
)
from metaimpute.engine.pytree import cosine

from .problems import ARCHITECTURES, make_case

STACKABLE = [name for name in ARCHITECTURES if name not in ("lstm", "gru")]


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    "estimator", [("exact", "store"), ("exact", "revolve(2)"), ("mixed", "store"), ("truncated(2)", "store")]
)
@pytest.mark.parametrize("architecture", STACKABLE)
def test_a_stack_of_problems_gives_each_problems_own_hypergradient(
    architecture: str, estimator: tuple[str, str]
) -> None:
    name, memory = estimator
    case = make_case(architecture, steps=3)
    case.model.module.apply(lambda part: setattr(part, "p", 0.0) if isinstance(part, nn.Dropout) else None)
    if architecture == "hugging_face_bert":
        case.model.module.eval()
    for part in case.model.module.modules():
        if isinstance(part, nn.MultiheadAttention):
            part.dropout = 0.0
    rule = optimizers.get("adam")(torch.tensor(0.1), eps=0.05)
    starts = [{n: p.detach() + 0.05 * i * torch.randn_like(p) for n, p in case.model.params.items()} for i in range(3)]
    couplings = [{"labels": torch.randn(5, 3).softmax(-1)} for _ in range(3)]
    wrt_start = None
    alone = [
        hypergradient(
            case.inner, case.outer, s, c, case.batches, rule, name, steps=3, memory=memory, seed=1, wrt_start=wrt_start
        )
        for s, c in zip(starts, couplings, strict=True)
    ]
    batches = Batches([stack([b] * 3) for b in case.batches.inner], stack([case.batches.outer] * 3))
    together = hypergradient(
        stacked(case.inner), stacked(case.outer), stack(starts), stack(couplings), batches, rule, name, steps=3,
        memory=memory, seed=1, wrt_start=wrt_start,
    )  # fmt: skip
    for number, one in enumerate(alone):
        torch.testing.assert_close(unstack(together.grad_c, number), one.grad_c, rtol=1e-8, atol=1e-10)
        torch.testing.assert_close(unstack(together.theta_k, number), one.theta_k, rtol=1e-8, atol=1e-10)
        if one.grad_theta_0 is not None:
            torch.testing.assert_close(unstack(together.grad_theta_0, number), one.grad_theta_0, rtol=1e-8, atol=1e-10)
    total = sum(float(one.grad_optimizer["lr"]) for one in alone)
    assert float(together.grad_optimizer["lr"]) == pytest.approx(total, rel=1e-8)


@pytest.mark.usefixtures("float64")
def test_dropout_differs_between_the_problems_of_a_stack_and_repeats_exactly() -> None:
    case = make_case("mlp_dropout", steps=2)
    start, c = stack([case.model.params] * 4), stack([case.coupling] * 4)
    batches = Batches([stack([b] * 4) for b in case.batches.inner], stack([case.batches.outer] * 4))

    def estimate(name: str) -> Any:
        return hypergradient(
            stacked(case.inner), stacked(case.outer), start, c, batches, sgd(0.3), name, steps=2, seed=3
        )

    exact, mixed = estimate("exact"), estimate("mixed")
    torch.testing.assert_close(exact.grad_c, mixed.grad_c, rtol=1e-11, atol=1e-13)
    assert not torch.allclose(exact.grad_c["labels"][0], exact.grad_c["labels"][1])


class Regression:
    """Example weights of a small BatchNorm conv net, float32."""

    def __init__(self, autocast: bool = False, compile_with: str | None = None) -> None:
        torch.manual_seed(4)
        net = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Softplus(), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
            nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 3),
        )  # fmt: skip
        self.model, self.autocast = FunctionalModel(net), autocast
        self.call: Any = (
            self.model if compile_with is None else torch.compile(self.model.__call__, backend=compile_with)
        )
        self.x, self.y = torch.randn(24, 1, 8, 8), torch.randint(0, 3, (24,))

    def loss(self, theta: Any, weights: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.autocast):
            each = F.cross_entropy(self.call(theta, self.x).float(), self.y, reduction="none")
        return (weights * each).mean()

    def estimate(self, name: str, memory: str = "store") -> Any:
        return hypergradient(
            lambda th, c, b: self.loss(th, c), lambda th, c, b: self.loss(th, torch.ones(24)), self.model.params,
            torch.linspace(0.5, 1.5, 24), Batches([None], None), sgd(0.5, momentum=0.5), name, steps=3, memory=memory, seed=0,
        )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "memory"), [("exact", "store"), ("exact", "recompute"), ("exact", "auto(1MB)"), ("mixed", "store")]
)
def test_bfloat16_autocast_gives_nearly_the_float32_gradient(name: str, memory: str) -> None:
    reference, found = Regression().estimate("exact"), Regression(autocast=True).estimate(name, memory)
    assert found.grad_c.dtype == torch.float32
    assert float(cosine(found.grad_c, reference.grad_c)) > 0.99
    assert float(cosine(found.grad_theta_0, reference.grad_theta_0)) > 0.99
    assert not torch.equal(found.grad_c, reference.grad_c), "autocast must have been in force"


@pytest.mark.parametrize(("name", "memory"), [("exact", "store"), ("exact", "revolve(2)"), ("mixed", "store")])
def test_a_compiled_model_gives_the_same_gradient(name: str, memory: str) -> None:
    """torch.compile's graph capture; backends that compile a backward pass cannot be differentiated twice (see below)."""
    reference, found = Regression().estimate("exact"), Regression(compile_with="eager").estimate(name, memory)
    torch.testing.assert_close(found.grad_c, reference.grad_c, rtol=1e-4, atol=1e-6)


def test_a_compiled_backward_pass_serves_estimators_that_differentiate_once_and_is_refused_by_the_others() -> None:
    torch._dynamo.reset()  # a program that failed to compile in an earlier test is run as it is from then on
    compiled = Regression(compile_with="aot_eager")
    found = compiled.estimate("first_order")
    reference = Regression().estimate("first_order")
    torch.testing.assert_close(found.grad_theta_0, reference.grad_theta_0, rtol=1e-4, atol=1e-6)
    with pytest.raises(EstimatorError, match=r"cannot be differentiated twice.*Compiled\(inner_loss\)"):
        compiled.estimate("exact")

"""Rules that torch.optim does not have take the steps of the packages that their authors keep.

The end points below were recorded from lion-pytorch 0.2.5 and schedulefree 1.4.1 in float64; where a package is installed, it is
asked again. ``python -m tests.engine.test_reference_rules`` prints them. Sharpness-aware steps are written out around torch.optim.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from metaimpute.engine import (
    adam,
    adamw,
    averaged,
    lion,
    sam,
    schedule_free_adamw,
    schedule_free_sgd,
    sharpness_aware,
    unroll,
)

pytestmark = pytest.mark.usefixtures("float64")
STEPS = 6
WARM = {"weight_decay": 0.1, "warmup_steps": 4, "r": 0.5, "weight_lr_power": 1.5}
CASES: dict[str, tuple[Any, str, dict[str, Any]]] = {
    "lion": (lion, "lion_pytorch.Lion", {"lr": 0.03}),
    "lion, decayed": (lion, "lion_pytorch.Lion", {"lr": 0.03, "betas": (0.5, 0.7), "weight_decay": 0.2}),
    "sgd": (schedule_free_sgd, "schedulefree.SGDScheduleFree", {"lr": 0.05}),
    "sgd, warm": (schedule_free_sgd, "schedulefree.SGDScheduleFree", {"lr": 0.05, "momentum": 0.6, **WARM}),
    "adamw": (schedule_free_adamw, "schedulefree.AdamWScheduleFree", {"lr": 0.05}),
    "adamw, warm": (
        schedule_free_adamw, "schedulefree.AdamWScheduleFree", {"lr": 0.05, "betas": (0.8, 0.7), "eps": 1e-3, **WARM},
    ),
}  # fmt: skip
RECORDED: dict[str, list[float]] = {
    'lion': [0.31999999999999984, -1.0199999999999998, 1.8199999999999998, 0.12000000000000002, -0.5199999999999998, 0.9199999999999999, 0.020000000000000018],
    'lion, decayed': [0.3049463466636486, -0.9801213362390218, 1.751749895753734, 0.11203920678497051, -0.49785348654232653, 0.8836677662996829, 0.015585636845631419],
    'sgd': [0.3892213743252664, -0.7062457365806368, 1.4633243917347154, 0.2167801301198975, -0.5129402415272992, 1.041983954437109, 0.1886308573570543],
    'sgd, warm': [0.39675541750658494, -0.7460227355565997, 1.5019007818798722, 0.2223651211186676, -0.5255463941066935, 1.0334602040666125, 0.18633120349806354],
    'adamw': [0.352446850123859, -1.0370376255361347, 1.835093013185328, 0.1557535594958838, -0.5490303533183605, 0.9386099873526362, 0.03779150908562384],
    'adamw, warm': [0.36125172380878434, -1.0382963810750738, 1.8251096755957452, 0.1663405126273249, -0.5552211604862636, 0.9419453440581511, 0.049282566084910454],
}  # fmt: skip


def start() -> dict[str, torch.Tensor]:
    return {"w": torch.tensor([0.5, -1.2, 2.0]), "b": torch.tensor([[0.3, -0.7], [1.1, 0.2]])}


def loss(params: dict[str, torch.Tensor], c: Any, batch: Any) -> torch.Tensor:
    w, b = params["w"], params["b"]
    return ((w - 0.4) ** 4).sum() / 4 + (b @ w[:2] - 0.3).square().sum() + 0.1 * (w.sum() * b).square().sum()


def by_package(name: str) -> list[float]:
    """Where the package's steps lead."""
    _, where, options = CASES[name]
    module, kind = where.split(".")
    build = getattr(pytest.importorskip(module), kind)
    params = {key: p.requires_grad_() for key, p in start().items()}
    leaves = list(params.values())
    optimizer = build(leaves, **options)
    if module == "schedulefree":
        optimizer.train()
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss(params, None, None).backward()
        optimizer.step()
    if module == "schedulefree":
        optimizer.eval()
    return torch.cat([p.detach().flatten() for p in leaves]).tolist()


def ours(name: str) -> torch.Tensor:
    rule, _, options = CASES[name]
    end = unroll(loss, start(), None, [None], rule(**options), STEPS, differentiable=False)
    return torch.cat([p.flatten() for p in end.params.values()])


@pytest.mark.parametrize("name", CASES)
def test_steps_are_those_that_were_recorded(name: str) -> None:
    torch.testing.assert_close(ours(name), torch.tensor(RECORDED[name]), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", CASES)
def test_steps_are_the_packages(name: str) -> None:
    torch.testing.assert_close(ours(name), torch.tensor(by_package(name)), rtol=1e-12, atol=1e-13)


def by_hand(build: Any, rho: float, adaptive: bool) -> torch.Tensor:
    """Sharpness-aware steps as in the paper's algorithm 1: up, the gradient there, back, a step of a torch optimiser."""
    params = {key: p.requires_grad_() for key, p in start().items()}
    leaves = list(params.values())
    optimizer = build(leaves)
    for _ in range(STEPS):
        here = torch.autograd.grad(loss(params, None, None), leaves)
        weights = [p.detach().abs() if adaptive else torch.ones_like(p) for p in leaves]
        length = torch.cat([(w * g).flatten() for w, g in zip(weights, here, strict=True)]).norm() + 1e-12
        before = [p.detach().clone() for p in leaves]
        with torch.no_grad():
            for p, w, g in zip(leaves, weights, here, strict=True):
                p += rho * w**2 * g / length
        optimizer.zero_grad()
        loss(params, None, None).backward()
        with torch.no_grad():
            for p, old in zip(leaves, before, strict=True):
                p.copy_(old)
        optimizer.step()
    return torch.cat([p.detach().flatten() for p in leaves])


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("rho", [0.05, 0.5])
def test_sharpness_aware_steps_are_the_algorithms(rho: float, adaptive: bool) -> None:
    pairs: list[tuple[Any, Any]] = [
        (
            lambda p: torch.optim.SGD(p, lr=0.02, momentum=0.9, weight_decay=0.1),
            sam(0.02, 0.9, weight_decay=0.1, rho=rho, adaptive=adaptive),
        ),
        (
            lambda p: torch.optim.AdamW(p, lr=0.02, weight_decay=0.1),
            sharpness_aware(adamw(0.02, weight_decay=0.1), rho, adaptive=adaptive),
        ),
    ]
    for build, rule in pairs:
        end = unroll(loss, start(), None, [None], rule, STEPS, differentiable=False)
        found = torch.cat([p.flatten() for p in end.params.values()])
        torch.testing.assert_close(found, by_hand(build, rho, adaptive), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("decay", [None, 0.7])
@pytest.mark.parametrize("begin_at", [0, 2])
def test_averaged_steps_are_those_of_torchs_averaged_model(decay: float | None, begin_at: int) -> None:
    swa = torch.optim.swa_utils
    net = torch.nn.Linear(3, 2)
    mean = swa.AveragedModel(net, multi_avg_fn=None if decay is None else swa.get_ema_multi_avg_fn(decay))
    stock, begun = (
        torch.optim.Adam(net.parameters(), lr=0.1),
        {n: p.detach().clone() for n, p in net.named_parameters()},
    )
    rule, x = averaged(adam(0.1), decay, start=begin_at), torch.randn(4, 3)

    def lost(th: Any, c: Any, b: Any) -> torch.Tensor:
        return torch.func.functional_call(net, dict(th), (x,)).sub(1).pow(4).mean()

    for step in range(5):
        stock.zero_grad()
        lost(dict(net.named_parameters()), None, None).backward()
        stock.step()
        if step >= begin_at:
            mean.update_parameters(net)
        shown = mean.module if step >= begin_at else net
        end = unroll(lost, begun, None, [None], rule, step + 1, differentiable=False)
        for name, p in shown.named_parameters():
            torch.testing.assert_close(end.params[name], p.detach(), rtol=1e-12, atol=1e-14)


if __name__ == "__main__":
    torch.set_default_dtype(torch.float64)
    for case in CASES:
        print(f"    {case!r}: {by_package(case)},")

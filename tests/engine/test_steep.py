"""Hypergradients that Adam's slope at zero gradients makes up are warned of, others are not."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor

from metaimpute.engine import (
    adadelta,
    adafactor,
    adagrad,
    adam,
    adamax,
    adamw,
    chain,
    clip,
    from_torch,
    hypergradient,
    lion,
    masked,
    muon,
    nadam,
    partition,
    per_step,
    radam,
    rmsprop,
    sam,
    schedule_free_adamw,
    schedule_free_sgd,
    sgd,
    sharpness_aware,
)

X = torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(4, 3)
C = torch.tensor([1.0, 0.5, 2.0, 1.5], dtype=torch.float64)
W = torch.tensor([0.3, -0.2, 0.1], dtype=torch.float64)


def inner(params: Any, c: Tensor, batch: Any) -> Tensor:
    return (c * (X @ params["w"] - 1).square()).mean()


def with_a_pull_to_zero(params: Any, c: Tensor, batch: Any) -> Tensor:
    """The second parameter stands where its gradient is zero, and each weight would move it off."""
    return inner({"w": params["w"]}, c, batch) + (params["still"] * (c - C)).sum()


def outer(params: Any, c: Any, batch: Any) -> Tensor:
    loss: Tensor = (X @ params["w"] - 0.5).square().mean()
    return loss + params["still"].sum() if "still" in params else loss


def said(rule: Any, inner_loss: Any, params: Any, estimator: str) -> tuple[list[str], Any]:
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        result = hypergradient(inner_loss, outer, params, C, [0, 0], rule, estimator, seed=0)
    return [str(one.message) for one in found], result


STILL = {"w": W, "still": torch.zeros(4, dtype=torch.float64)}


@pytest.mark.parametrize("estimator", ["exact", "mixed", "forward"])
@pytest.mark.parametrize(
    "make", [adam, adamw, nadam, rmsprop, adagrad, schedule_free_adamw], ids=lambda make: make.__name__
)
def test_a_slope_at_zero_that_makes_up_the_hypergradient_is_warned_of(make: Any, estimator: str) -> None:
    params = {"w": W, "still": torch.zeros(4, dtype=torch.float64)}
    messages, result = said(make(0.01), with_a_pull_to_zero, params, estimator)
    assert (
        len(messages) == 1 and "(nearly) zero dominate this hypergradient" in messages[0] and "eps_root" in messages[0]
    )
    assert result.diagnostics["steep"] > 1e3
    messages, result = said(make(0.01, eps_root=1e-4), with_a_pull_to_zero, params, estimator)
    assert not messages and "steep" not in result.diagnostics


@pytest.mark.parametrize(
    "rule",
    [
        adam(0.01), adamw(0.01), nadam(0.01), radam(0.01), rmsprop(0.01), adagrad(0.01), sgd(0.1), adamax(0.01), adafactor(0.01),
        muon(0.01), schedule_free_adamw(0.01), adadelta(1.0), lion(0.01), sam(0.1), schedule_free_sgd(0.1),
    ],
    ids=lambda r: r.label,
)  # fmt: skip
def test_others_are_not(rule: Any) -> None:
    messages, result = said(rule, inner, {"w": W}, "exact")
    assert not messages and "steep" not in result.diagnostics


TAMED = [
    (adamax(0.01), adamax(0.01, eps=0.1), "take a larger eps"),
    (adafactor(0.01), adafactor(0.01, eps=(1e-3, 1e-3)), "take a larger eps1"),
    (muon(0.01), muon(0.01, adamw_eps=0.1), "take a larger eps and adamw_eps"),
]


@pytest.mark.parametrize("estimator", ["exact", "mixed", "forward"])
@pytest.mark.parametrize(("rule", "tame", "way"), TAMED, ids=lambda x: getattr(x, "label", ""))
def test_rules_without_a_root_say_which_eps_to_raise(rule: Any, tame: Any, way: str, estimator: str) -> None:
    messages, result = said(rule, with_a_pull_to_zero, STILL, estimator)
    assert len(messages) == 1 and messages[0].endswith(way) and "dominate this hypergradient" in messages[0]
    assert result.diagnostics["steep"] > 1e3
    messages, result = said(tame, with_a_pull_to_zero, STILL, estimator)
    assert not messages and "steep" not in result.diagnostics


@pytest.mark.parametrize("make", [adam, adamax, adafactor, muon, nadam, schedule_free_adamw], ids=lambda m: m.__name__)
def test_weights_of_examples_that_start_at_zero_are_warned_of(make: Any) -> None:
    matrix = {"w": torch.tensor([[0.3], [-0.2], [0.1]], dtype=torch.float64), "b": torch.zeros(1, dtype=torch.float64)}

    def loss(p: Any, c: Any, batch: Any) -> Tensor:
        fit: Tensor = (X @ p["w"] + p["b"] - 1).square()[:, 0]
        return (fit if c is None else c * fit).mean()

    with pytest.warns(UserWarning, match="dominate this hypergradient"):
        hypergradient(
            loss, lambda p, c, b: loss(p, None, b), matrix, torch.zeros(4, dtype=torch.float64), None, make(0.01)
        )


@pytest.mark.parametrize("make", [adam, adamax], ids=lambda m: m.__name__)
@pytest.mark.parametrize(
    "around",
    [
        lambda rule: chain(clip(1.0), rule),
        lambda rule: per_step(rule, lr=[0.01, 0.01]),
        lambda rule: partition({"w": sgd(0.1), "still": rule}),
        lambda rule: partition({"w": adam(0.01, eps_root=1e-4), "still": rule}),
        lambda rule: masked(rule, "still"),
        sharpness_aware,
    ],
    ids=["chain", "per_step", "partition", "partition of two Adams", "masked", "sharpness_aware"],
)
def test_rules_inside_others_are_warned_of(around: Any, make: Any) -> None:
    messages, _ = said(around(make(0.01)), with_a_pull_to_zero, STILL, "exact")
    assert len(messages) == 1 and "dominate this hypergradient" in messages[0]


def test_twins_of_torchs_are_warned_of() -> None:
    params = {name: p.clone().requires_grad_() for name, p in STILL.items()}
    for kind in (torch.optim.Adamax, torch.optim.Adafactor, torch.optim.Adam):
        rule = from_torch(kind(list(params.values()), lr=0.01), params)
        messages, _ = said(rule, with_a_pull_to_zero, STILL, "exact")
        assert len(messages) == 1 and "dominate this hypergradient" in messages[0]

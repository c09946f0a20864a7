"""Hypergradients that Adam's slope at zero gradients makes up are warned of, others are not."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor

from metaimpute.engine import adagrad, adam, adamw, hypergradient, radam, rmsprop, sgd

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


@pytest.mark.parametrize("estimator", ["exact", "mixed", "forward"])
@pytest.mark.parametrize("make", [adam, adamw, rmsprop, adagrad], ids=lambda make: make.__name__)
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
    "rule", [adam(0.01), adamw(0.01), radam(0.01), rmsprop(0.01), adagrad(0.01), sgd(0.1)], ids=lambda r: r.label
)
def test_others_are_not(rule: Any) -> None:
    messages, result = said(rule, inner, {"w": W}, "exact")
    assert not messages and "steep" not in result.diagnostics

"""Eq. 9, 11, 13 and 15 of the paper: one-layer networks, one SGD step, by hand (signs of the negative log-likelihood)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from metaimpute.engine import Batches, hypergradient, sgd

pytestmark = pytest.mark.usefixtures("float64")

LR = 0.3
ESTIMATORS = [("exact", "func"), ("mixed", "func"), ("exact", "higher")]


@pytest.fixture
def data() -> dict[str, Tensor]:
    torch.manual_seed(1)
    return {
        "theta": torch.randn(3), "x": torch.randn(4, 3), "u": torch.randn(5, 3), "noise": 0.1 * torch.randn(5, 3),
        "h": torch.randn(6, 3),
        "y": torch.tensor([0.0, 1, 1, 0]), "y_h": torch.tensor([1.0, 0, 1, 0, 0, 1]), "z": torch.rand(5),
    }  # fmt: skip


def estimate(inner: Any, outer: Any, data: dict[str, Tensor], z: Tensor, estimator: str, backend: str) -> Any:
    return hypergradient(
        inner, outer, {"theta": data["theta"]}, z, Batches([None], None), sgd(LR), estimator, backend=backend,
        wrt_start=False,
    )  # fmt: skip


def logistic(data: dict[str, Tensor]) -> tuple[Any, Any]:
    def inner(theta: Any, z: Tensor, _: Any) -> Tensor:
        labelled = F.binary_cross_entropy_with_logits(data["x"] @ theta["theta"], data["y"], reduction="sum")
        return labelled + F.binary_cross_entropy_with_logits(data["u"] @ theta["theta"], z, reduction="sum")

    def outer(theta: Any, z: Tensor, _: Any) -> Tensor:
        return F.binary_cross_entropy_with_logits(data["h"] @ theta["theta"], data["y_h"], reduction="sum")

    return inner, outer


def squared(data: dict[str, Tensor]) -> tuple[Any, Any]:
    def inner(theta: Any, z: Tensor, _: Any) -> Tensor:
        labelled = (data["x"] @ theta["theta"] - data["y"]).square().sum()
        return labelled + (data["u"] @ theta["theta"] - z).square().sum()

    def outer(theta: Any, z: Tensor, _: Any) -> Tensor:
        return (data["h"] @ theta["theta"] - data["y_h"]).square().sum()

    return inner, outer


@pytest.mark.parametrize(("estimator", "backend"), ESTIMATORS)
def test_eq_11_labels_of_a_logistic_model(data: dict[str, Tensor], estimator: str, backend: str) -> None:
    """dC_H/dz_u = eta * sum_h (sigma(theta* . h) - y_h) h . u."""
    result = estimate(*logistic(data), data, data["z"], estimator, backend)
    residual = torch.sigmoid(data["h"] @ result.theta_k["theta"]) - data["y_h"]
    torch.testing.assert_close(result.grad_c, LR * data["u"] @ (data["h"].T @ residual), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(("estimator", "backend"), ESTIMATORS)
def test_eq_9_output_of_a_logistic_model(data: dict[str, Tensor], estimator: str, backend: str) -> None:
    """Eq. 11 times dz/dtheta = z (1 - z) (x_u + noise), with z = sigma(theta . (x_u + noise))."""
    imputer = data["theta"].clone().requires_grad_()
    seen = data["u"] + data["noise"]
    z = torch.sigmoid(seen @ imputer)
    result = estimate(*logistic(data), data, z.detach(), estimator, backend)
    (found,) = torch.autograd.grad(z, imputer, result.grad_c)
    residual = torch.sigmoid(data["h"] @ result.theta_k["theta"]) - data["y_h"]
    similarity = LR * data["u"] @ (data["h"].T @ residual)
    expected = ((similarity * z * (1 - z))[:, None] * seen).sum(0).detach()
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(("estimator", "backend"), ESTIMATORS)
def test_eq_15_labels_of_a_linear_model(data: dict[str, Tensor], estimator: str, backend: str) -> None:
    """dC_H/dz_u = 4 eta sum_h (theta* . h - y_h) h . u."""
    result = estimate(*squared(data), data, data["z"], estimator, backend)
    residual = data["h"] @ result.theta_k["theta"] - data["y_h"]
    torch.testing.assert_close(result.grad_c, 4 * LR * data["u"] @ (data["h"].T @ residual), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("estimator", "backend"), ESTIMATORS)
def test_eq_13_output_of_a_linear_model(data: dict[str, Tensor], estimator: str, backend: str) -> None:
    """Eq. 15 times dz/dtheta = x_u + noise."""
    imputer = data["theta"].clone().requires_grad_()
    seen = data["u"] + data["noise"]
    z = seen @ imputer
    result = estimate(*squared(data), data, z.detach(), estimator, backend)
    (found,) = torch.autograd.grad(z, imputer, result.grad_c)
    residual = data["h"] @ result.theta_k["theta"] - data["y_h"]
    expected = ((4 * LR * data["u"] @ (data["h"].T @ residual))[:, None] * seen).sum(0).detach()
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)

"""Scaled losses: the same numbers in float64, numbers at all in float16, and what cannot be scaled."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from metaimpute.engine import EstimatorError, adam, hypergradient, momentum, sgd

X = torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(4, 3)
SIZE = 1e-6  # of losses whose gradients float16 rounds to zero


def inner(params: Any, c: Tensor, batch: Any) -> Tensor:
    return (c * (X.to(params["w"]) @ params["w"] - 1).square()).mean()


def outer(params: Any, c: Any, batch: Any) -> Tensor:
    return (X.to(params["w"]) @ params["w"] - 0.5).square().mean()


def start(dtype: torch.dtype = torch.float64) -> tuple[dict[str, Tensor], Tensor]:
    return {"w": torch.tensor([0.3, -0.2, 0.1], dtype=dtype)}, torch.tensor([1.0, 0.5, 2.0, 1.5], dtype=dtype)


@pytest.mark.parametrize(
    "name", ["exact", "mixed", "forward", "truncated(1)", "finite_difference", "forward_gradient(3)"]
)
@pytest.mark.parametrize(
    "rule", [sgd(torch.tensor(0.1)), momentum(torch.tensor(0.1)), adam(torch.tensor(0.1))], ids=lambda rule: rule.label
)
def test_a_scaled_loss_has_the_same_hypergradient(name: str, rule: Any) -> None:
    one, other = (
        hypergradient(inner, outer, *start(), [0, 0, 0], rule, name, seed=0, loss_scale=scale)
        for scale in (1.0, 2.0**12)
    )
    rtol = 1e-6 if name == "finite_difference" else 1e-12
    for found, wanted in (
        (other.grad_c, one.grad_c), (other.outer_loss, one.outer_loss), (other.grad_optimizer, one.grad_optimizer),
        (other.diagnostics["inner_losses"], one.diagnostics["inner_losses"]), (other.theta_k, one.theta_k),
        (other.diagnostics["hypergradient_norm"], one.diagnostics["hypergradient_norm"]),
    ):  # fmt: skip
        torch.testing.assert_close(found, wanted, rtol=rtol, atol=1e-15)
    if one.grad_theta_0 is not None:
        torch.testing.assert_close(other.grad_theta_0, one.grad_theta_0, rtol=rtol, atol=1e-15)


def test_gradients_that_float16_rounds_to_zero_survive_scaled() -> None:
    def lowered(loss: Any) -> Any:
        def low(params: Any, c: Tensor, batch: Any) -> Tensor:
            half = {name: p.half() for name, p in params.items()}  # the float32 parameters are the master weights
            found: Tensor = SIZE * loss(half, c.half(), batch).float()
            return found

        return low

    def small(loss: Any) -> Any:
        return lambda params, c, batch: SIZE * loss(params, c, batch)

    truth = hypergradient(small(inner), small(outer), *start(), [0, 0], sgd(0.1 / SIZE), seed=0)
    plain, scaled = (
        hypergradient(
            lowered(inner), lowered(outer), *start(torch.float32), [0, 0], sgd(0.1 / SIZE), seed=0, loss_scale=scale
        )
        for scale in (1.0, 2.0**14)
    )
    assert all(p.dtype == torch.float32 for p in scaled.theta_k.values())

    def off(found: Any) -> float:
        return float((found.grad_c.double() - truth.grad_c).norm() / truth.grad_c.norm())

    assert off(scaled) < 5e-3 and off(plain) > 0.1


@pytest.mark.parametrize(
    ("name", "scale", "said"),
    [
        ("cg", 2.0, "loss_scale does not go with 'cg'"),
        ("neumann", 2.0, "loss_scale does not go with 'neumann'"),
        ("es", 2.0, "loss_scale does not go with 'es'"),
        ("exact", 0.0, "loss_scale is a positive number"),
        ("exact", float("inf"), "loss_scale is a positive number"),
        ("exact", True, "loss_scale is a positive number"),
    ],
)
def test_what_cannot_be_scaled_is_refused(name: str, scale: Any, said: str) -> None:
    with pytest.raises(EstimatorError, match=said):
        hypergradient(inner, outer, *start(), [0], sgd(0.1), name, loss_scale=scale)


def test_a_scale_that_is_too_large_is_told() -> None:
    def half(loss: Any) -> Any:
        return lambda params, c, batch: loss({n: p.half() for n, p in params.items()}, c.half(), batch).float()

    with pytest.warns(UserWarning, match="is not finite with loss_scale=1.09951e\\+12; take a smaller one"):
        hypergradient(half(inner), half(outer), *start(torch.float32), [0], sgd(0.1), loss_scale=2.0**40)

"""Evolution strategies: unbiased for the smoothed function, with an error that is the error, and as a hypergradient."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from metaimpute.engine import (
    BadSmoothing,
    EstimatorError,
    after_training,
    evolution_gradient,
    get_estimator,
    hypergradient,
    sgd,
)
from metaimpute.engine.pytree import norm

pytestmark = pytest.mark.usefixtures("float64")
Q = torch.tensor([[2.0, 0.5, 0.0], [0.5, 1.0, -0.3], [0.0, -0.3, 3.0]], dtype=torch.float64)
AT = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)


def quadratic(x: Any) -> float:
    return float(x["w"] @ Q @ x["w"] / 2 + x["w"].sum() * x["s"])


def point() -> dict[str, Any]:
    return {"w": AT, "s": torch.tensor(0.7), "count": 3}


def slope() -> dict[str, Tensor]:
    return {"w": Q @ AT + 0.7, "s": AT.sum()}


@pytest.mark.parametrize("antithetic", [True, False])
@pytest.mark.parametrize("control", [False, True])
def test_it_is_unbiased_for_a_quadratic_within_its_stated_error(antithetic: bool, control: bool) -> None:
    guess = {"w": torch.ones(3), "s": torch.ones(()), "count": 3} if control else None
    found = evolution_gradient(quadratic, point(), sigma=0.5, pairs=4000, antithetic=antithetic, control=guess, seed=1)
    for key, expected in slope().items():
        off = (found.gradient[key] - expected) / found.standard_error[key]
        assert float(off.abs().max()) < 3.5, key
        assert float(found.standard_error[key].max()) < 0.2
    assert found.gradient["count"] == 3 and found.evaluations == (8000 if antithetic else 8001)


def test_it_is_the_gradient_of_the_smoothed_function_where_that_is_another() -> None:
    """``E (x + s u)^3 = x^3 + 3 x s^2``; of a step at 0, the normal density."""
    cubic = evolution_gradient(lambda x: x**3, torch.tensor(0.5), sigma=1.0, pairs=20_000)
    assert abs(float(cubic.gradient) - (3 * 0.25 + 3)) < 3.5 * float(cubic.standard_error)
    assert float(cubic.standard_error) < 0.1
    step = evolution_gradient(lambda x: np.float32(x.item() > 0), torch.tensor(0.3), sigma=0.5, pairs=20_000)
    density = np.exp(-0.5 * 0.6**2) / np.sqrt(2 * np.pi) / 0.5
    assert abs(float(step.gradient) - density) < 3.5 * float(step.standard_error) < 0.05


def spread(pairs: int, runs: int = 60, **options: Any) -> float:
    """The variance of the estimate over seeds, measured."""
    found = [
        evolution_gradient(quadratic, point(), sigma=0.5, pairs=pairs, seed=s, **options).gradient["w"]
        for s in range(runs)
    ]
    return float(torch.stack(found).var(0).sum())


def test_the_stated_error_is_the_measured_one_and_falls_with_the_samples() -> None:
    few, many = spread(8), spread(32)
    assert 2.5 < few / many < 6.5
    stated = [
        evolution_gradient(quadratic, point(), sigma=0.5, pairs=32, seed=s).standard_error["w"] for s in range(60)
    ]
    assert torch.stack(stated).square().sum(1).mean() == pytest.approx(many, rel=0.35)


def test_pairs_and_a_guess_of_the_gradient_take_variance_away() -> None:
    # with one width in common: single points carry the curvature, which pairs cancel
    assert spread(16, antithetic=True) < 0.8 * 2 * spread(16, antithetic=False)
    wide = {"sigma": 2.0}
    paired, single = (
        float(evolution_gradient(quadratic, point(), pairs=200, antithetic=a, **wide).standard_error_norm)
        for a in (True, False)
    )
    assert paired < single
    exact = {**slope(), "count": 3}
    assert spread(16, control=exact) < 1e-20, "of a quadratic pairs and the gradient itself leave nothing"
    near = {"w": exact["w"] * 0.9, "s": exact["s"], "count": 3}
    assert spread(16, control=near) < 0.1 * spread(16)


def test_bad_samples_and_functions_are_refused() -> None:
    for options, said in (
        ({"sigma": 0.0}, "sigma must be a number above 0"),
        ({"pairs": 1}, "at least 2, which an error needs"),
        ({"pairs": 2.5}, "whole number"),
        ({"control": {"w": torch.ones(2)}}, "in the shape of the point"),
    ):
        with pytest.raises(BadSmoothing, match=said):
            evolution_gradient(quadratic, point(), **options)  # type: ignore[arg-type]
    with pytest.raises(BadSmoothing, match=r"not a tensor of shape \[3\]"):
        evolution_gradient(lambda x: x, AT)
    with pytest.raises(BadSmoothing, match="not str"):
        evolution_gradient(lambda x: "a", AT)
    with pytest.raises(BadSmoothing, match="nan at a point"):
        evolution_gradient(lambda x: float("nan"), AT)
    with pytest.raises(BadSmoothing, match="real floating-point"):
        evolution_gradient(lambda x: 0.0, torch.arange(3))
    before = AT.clone()
    evolution_gradient(lambda x: x.sum(), AT)
    assert torch.equal(AT, before)


# as an estimator ----------------------------------------------------------------------------------------------------------


def problem() -> tuple[Any, ...]:
    x, y = torch.randn(20, 3), torch.randn(20)

    def inner(p: Any, c: Any, b: Any) -> Tensor:
        return (c["w"] * (x @ p["w"] - y).square()).mean()

    def outer(p: Any, c: Any, b: Any) -> Tensor:
        return (x.flip(0) @ p["w"] - y).square().mean() + 0.1 * c["w"].square().mean()

    return inner, outer, {"w": torch.zeros(3)}, {"w": torch.ones(20), "rows": torch.arange(3)}


def test_as_a_hypergradient_it_agrees_with_exact_within_its_error() -> None:
    inner, outer, start, c = problem()
    how = get_estimator("es", n=400, sigma=0.003)

    def both(rule: Any, wrt_start: bool) -> tuple[Any, Any]:
        found = [
            hypergradient(inner, outer, start, c, None, rule, e, steps=4, seed=0, wrt_start=wrt_start)
            for e in ("exact", how)
        ]
        return found[0], found[1]

    exact, found = both(sgd(0.1, momentum=0.5), False)
    error = found.diagnostics["standard_error"]["w"]
    assert float(((found.grad_c["w"] - exact.grad_c["w"]) / error).abs().max()) < 4
    assert float(found.diagnostics["standard_error_norm"]) == pytest.approx(float(error.norm()))
    assert float(error.norm()) < 0.5 * float(norm(exact.grad_c))
    assert found.grad_theta_0 is None and found.grad_c["rows"] is None
    for field in ("outer_loss", "theta_k", "first_gradient"):
        torch.testing.assert_close(getattr(found, field), getattr(exact, field))
    assert torch.equal(both(sgd(0.1, momentum=0.5), False)[1].grad_c["w"], found.grad_c["w"])
    exact, found = both(sgd(torch.tensor(0.1), momentum=torch.tensor(0.5)), True)
    for key in ("lr", "momentum"):
        off = found.grad_optimizer[key] - exact.grad_optimizer[key]
        assert abs(float(off)) < 4 * float(found.diagnostics["standard_error_optimizer"][key])
    off = found.grad_theta_0["w"] - exact.grad_theta_0["w"]
    assert float(off.abs().max()) < 4 * float(found.diagnostics["standard_error_start"]["w"].min())


def test_an_accuracy_has_a_hypergradient_and_goes_down_along_it() -> None:
    """What no other estimator sees: the error rate after training, in learned example weights."""
    torch.manual_seed(0)
    x = torch.randn(60, 2)
    y = (x[:, 0] > 0).double()
    noisy = y.clone()
    noisy[:18] = 1 - noisy[:18]

    def inner(p: Any, c: Any, b: Any) -> Tensor:
        losses = torch.nn.functional.binary_cross_entropy_with_logits(x @ p["w"] + p["b"], noisy, reduction="none")
        return (c.sigmoid() * losses).mean()

    def errors(p: Any, c: Any, b: Any) -> Tensor:
        wrong = (((x @ p["w"] + p["b"]).numpy() > 0) != (y.numpy() > 0)).mean()
        return torch.tensor(float(wrong))

    start = {"w": torch.tensor([-1.0, 1.0]), "b": torch.zeros(())}
    c = torch.zeros(60, requires_grad=True)
    values = []
    for step in range(15):
        value = after_training(
            inner,
            errors,
            start,
            c,
            optimizer=sgd(1.0),
            steps=10,
            estimator=get_estimator("es", n=40, sigma=0.5),
            seed=step,
        )
        (slope,) = torch.autograd.grad(value, c)
        values.append(float(value))
        with torch.no_grad():
            c -= 20 * slope
    assert values[-1] < 0.6 * values[0], values


def test_options_that_make_no_estimate_are_refused() -> None:
    for options, said in (
        ({"n": 1}, "at least 2, not 1"),
        ({"sigma": 0.0}, "sigma to be above 0"),
        ({"sigma": float("inf")}, "above 0"),
    ):
        with pytest.raises(EstimatorError, match=said):
            get_estimator("es", **options)
    inner, _, start, c = problem()
    with pytest.raises(EstimatorError, match="'es': the function is nan at a point"):
        hypergradient(inner, lambda p, c, b: p["w"].sum() * float("nan"), start, c, None, sgd(0.1), "es", steps=2)
    with pytest.raises(EstimatorError, match="'es': .*view_as_real"):
        hypergradient(lambda p, c, b: p["w"].square().sum() * c.abs(), lambda p, c, b: p["w"].sum(), start, torch.ones((), dtype=torch.complex128),
                      None, sgd(0.1), "es", steps=2)  # fmt: skip

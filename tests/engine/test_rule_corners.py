"""The newer rules where gradients are zero, numbers are wrong and parameters complex."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from metaimpute.engine import (
    UnsupportedOptimizer,
    adadelta,
    adafactor,
    adagrad,
    adam,
    adamax,
    adamw,
    hypergradient,
    lion,
    muon,
    nadam,
    optimizers,
    per_step,
    radam,
    rmsprop,
    sgd,
    unroll,
)

from .two_leaves import C, T, estimate, outer

pytestmark = pytest.mark.usefixtures("float64")


@pytest.mark.parametrize("rule", [
    nadam(0.1), radam(0.1, (0.9, 0.7)), radam(0.1, (0.9, 0.99)), adadelta(), adamax(0.1), adafactor(), lion(0.1), muon(0.1),
    per_step(adam(0.1), lr=[0.1] * 7),
])  # fmt: skip
def test_derivatives_are_finite_where_gradients_are_zero(rule: Any) -> None:
    """An input that is always zero, in a vector and in a matrix."""
    start = {"a": torch.zeros(2, requires_grad=True), "b": torch.zeros(2, 3, requires_grad=True)}
    scale = T([1.0, 0.0], requires_grad=True)

    def loss(th: Any, c: Any, batch: Any) -> Tensor:
        total = (th["a"] * c).sum() + (c @ th["b"]).sum()
        return total**2 + total

    for steps in (1, 3, 7):
        reached = unroll(loss, start, scale, [None], rule, steps).params
        for slope in torch.autograd.grad(
            reached["a"].sum() + reached["b"].sum(), [*start.values(), scale], allow_unused=True
        ):
            assert slope is None or bool(torch.isfinite(slope).all())


def test_the_slope_of_a_first_step_at_a_zero_gradient_is_that_of_the_quotient() -> None:
    grad, param = torch.zeros(1, requires_grad=True), torch.ones(1)
    first = 0.9 * (1 - 0.5 * 0.96**4e-3), 0.9 * (1 - 0.5 * 0.96**8e-3)
    nesterov = (1 - first[0]) / (1 - first[0]) + first[1] * 0.1 / (1 - first[0] * first[1])
    for rule, slope in (
        (nadam(0.1, eps=1e-3), 0.1 * nesterov / 1e-3),
        (adamax(0.1, eps=1e-3), 0.1 / 1e-3),
        (adadelta(0.1, eps=1e-3), 0.1),
        (adafactor(0.1, eps=(1e-3, 1e-3)), 0.1 / 1e-3),
        (lion(0.1), 0.0),
    ):
        update, _ = rule.update([grad], rule.init([param]), [param], rule.hyper)
        found = torch.autograd.grad(update[0].sum(), grad)[0]
        torch.testing.assert_close(found, T([-slope]), rtol=1e-12, atol=0)


def test_lion_carries_nothing_through_a_gradient_but_all_else() -> None:
    found = estimate(lion(T(0.05), (T(0.9), T(0.99)), weight_decay=T(0.1)))
    assert torch.equal(found.grad_c, torch.zeros(2)), "the coupling acts through the inner loss alone"
    assert float(found.grad_optimizer["beta1"]) == 0 and float(found.grad_optimizer["lr"]) != 0
    reached = {name: p.clone().requires_grad_() for name, p in found.theta_k.items()}
    slope = torch.autograd.grad(outer(reached, C, None), reached["a"])[0]
    torch.testing.assert_close(found.grad_theta_0["a"], slope * (1 - 0.05 * 0.1) ** 3, rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: nadam(0.1, (1.0, 0.9)), r"nadam: betas must lie in \[0, 1\), not 1.0"),
        (lambda: radam(0.1, (0.9, -0.1)), r"radam: betas must lie in"),
        (lambda: adadelta(rho=1.5), r"rho must lie in \[0, 1\], not 1.5"),
        (lambda: adafactor(beta2_decay=0.8), "beta2_decay must be at most 0, not 0.8"),
        (lambda: adafactor(d=0.5), "d must be at least 1, not 0.5"),
        (lambda: adafactor(0.1).with_hyper(beta2_decay=float("-inf")), "beta2_decay must be a finite number, not -inf"),
        (
            lambda: muon(0.1, adjust_lr_fn="none"),
            "adjust_lr_fn is original, match_rms_adamw, spectral_unclamped, not 'none'",
        ),  # type: ignore[arg-type]
        (lambda: muon(0.1, ns_steps=2.5), "ns_steps is a whole number from 0 to 99, not 2.5"),  # type: ignore[arg-type]
        (lambda: muon(0.1, ns_coefficients=(1.0, 2.0)), "ns_coefficients are 3, not 2"),  # type: ignore[arg-type]
        (lambda: lion(0.1).with_hyper(lr=float("inf")), "lr must be a finite number of at least 0, not inf"),
    ],
)
def test_numbers_that_a_rule_cannot_have_are_refused(make: Any, said: str) -> None:
    with pytest.raises(UnsupportedOptimizer, match=said):
        make()


@pytest.mark.parametrize(
    "rule",
    [adam(), adamw(), adagrad(0.1), rmsprop(0.1), nadam(), radam(), adadelta(), adamax(), adafactor(), lion(), muon()],
)
def test_complex_parameters_are_refused_in_words(rule: Any) -> None:
    with pytest.raises(UnsupportedOptimizer, match=f"{rule.label} moves real parameters; .*view_as_real"):
        rule.init({"w": torch.zeros(2, dtype=torch.complex128)})


@pytest.mark.parametrize("estimator", ["exact", "mixed", "forward"])
@pytest.mark.parametrize("name", list(optimizers))
def test_a_learning_rate_whose_shape_says_nothing_about_a_parameter_is_refused(name: str, estimator: str) -> None:
    """A list of rates is one for each step to some and one for each column to others: neither is guessed."""
    rule = optimizers.get(name)(torch.full((3,), 0.1, dtype=torch.float64))
    start = {"w": torch.ones(2, 3, dtype=torch.float64)}
    with pytest.raises(UnsupportedOptimizer, match=r"lr has shape \[3\] and a parameter \[2, 3\]; .*per_step"):
        hypergradient(
            lambda th, c, b: (c * th["w"]).square().sum(),
            lambda th, c, b: th["w"].square().sum(),
            start,
            torch.ones(3, dtype=torch.float64),
            [0, 0],
            optimizer=rule,
            estimator=estimator,
        )


@pytest.mark.parametrize("shape", [(), (1,), (2, 3), (2, 1), (1, 3)])
def test_a_learning_rate_with_the_shape_of_a_parameter_is_one_for_each_entry(shape: tuple[int, ...]) -> None:
    rates = torch.linspace(0.1, 0.3, max(1, torch.Size(shape).numel()), dtype=torch.float64).reshape(shape)
    start = torch.linspace(1, 2, 6, dtype=torch.float64).reshape(2, 3)
    found = hypergradient(
        lambda th, c, b: th["w"].square().sum() / 2,
        lambda th, c, b: th["w"].sum(),
        {"w": start},
        None,
        [0],
        optimizer=sgd({"w": rates}),
    )
    assert torch.equal(found.theta_k["w"], start - rates * start)
    assert torch.allclose(found.grad_optimizer["lr"]["w"], (-start).sum_to_size(shape), rtol=0, atol=1e-15)

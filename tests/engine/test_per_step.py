"""Values of hyperparameters per step, given and learned."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from metaimpute.engine import (
    CannotDifferentiate,
    Compiled,
    EstimatorError,
    UnsupportedOptimizer,
    adadelta,
    adafactor,
    adam,
    adamax,
    after_training,
    lion,
    masked,
    momentum,
    muon,
    nadam,
    parameter_groups,
    partition,
    per_step,
    radam,
    scheduled,
    sgd,
)

from .two_leaves import START, C, T, assert_same, end, estimate, inner, outer

pytestmark = pytest.mark.usefixtures("float64")


def by_hand(rates: Any, moments: Any) -> Any:
    """Heavy-ball steps with other numbers at each, one rate per parameter and step."""
    th, buffers = dict(START), {name: torch.zeros_like(p) for name, p in START.items()}
    for t in range(3):
        at = {name: p.clone().requires_grad_() for name, p in th.items()}
        slopes = torch.autograd.grad(inner(at, C, None), list(at.values()))
        for (name, p), slope in zip(th.items(), slopes, strict=True):
            buffers[name] = moments[t] * buffers[name] + slope
            th[name] = p - rates[name][t] * buffers[name]
    return th


@pytest.mark.parametrize("compiled", [False, True])
def test_each_step_has_its_own_numbers_however_they_are_given(compiled: bool) -> None:
    rates, moments = [0.02, 0.01, 0.03], [0.5, 0.9, 0.1]
    expected = by_hand(dict.fromkeys(START, rates), moments)
    loss = Compiled(inner, backend="eager") if compiled else inner
    for lr in (rates, T(rates), {"a": rates, "b": T(rates)}, dict.fromkeys(START, T(rates))):
        assert_same(end(per_step(momentum(7.0), lr=lr, momentum=moments), loss=loss), expected)
    if not compiled:
        called = per_step(momentum(7.0), lr=lambda t: rates[t], momentum={"a": moments, "b": lambda t: moments[t]})
        assert_same(end(called), expected)
    apart = {"a": rates, "b": [0.03, 0.02, 0.01]}
    assert_same(end(per_step(momentum(7.0), lr=apart, momentum=moments), loss=loss), by_hand(apart, moments))


def test_a_rate_of_every_step_is_a_schedule_of_factors() -> None:
    factors = [1.0, 0.5, 0.25]
    assert_same(end(per_step(adam(1.0), lr=[0.1 * f for f in factors])), end(scheduled(adam(0.1), factors)))


RULES = {
    "adadelta": (adadelta(eps=0.05), ("lr", "rho", "eps", "weight_decay")),
    "adafactor": (adafactor(eps=(0.05, 0.02), d=1.2), ("lr", "beta2_decay", "eps1", "eps2", "d", "weight_decay")),
    "adamax": (adamax(eps=0.05), ("lr", "beta1", "beta2", "eps")),
    "lion": (lion(0.05), ("lr", "weight_decay")),
    "muon": (muon(0.02, eps=0.01), ("lr", "momentum", "ns_a", "ns_b", "ns_c", "weight_decay")),
    "nadam": (nadam(eps=0.05), ("lr", "beta1", "beta2", "eps", "momentum_decay")),
    "radam": (radam(0.02, (0.8, 0.7), eps=0.05), ("lr", "beta1", "weight_decay")),
}


@pytest.mark.parametrize("estimator", ["exact", "mixed", "forward"])
@pytest.mark.parametrize("name", RULES)
def test_every_value_of_every_hyperparameter_is_learned(name: str, estimator: str) -> None:
    rule, keys = RULES[name]
    values = {key: torch.linspace(1.0, 0.9, 3) * (rule.hyper[key] or 0.05) for key in keys}
    found = estimate(per_step(rule, **values), estimator, wrt_start=False).grad_optimizer

    def value(changed: Any) -> float:
        return float(outer(end(per_step(rule, **{**values, **changed})), C, None))

    some = 0
    for key, now in values.items():
        assert found[key].shape == (3,)
        for t in range(3):
            step = 1e-6 * torch.nn.functional.one_hot(torch.tensor(t), 3)
            slope = (value({key: now + step}) - value({key: now - step})) / 2e-6
            assert float(found[key][t]) == pytest.approx(slope, rel=2e-6, abs=2e-9), (key, t)
            some += slope != 0
    assert some > len(keys)


def test_rates_per_parameter_and_step_are_learned() -> None:
    """LSLR (Antoniou et al., 2019): one learning rate per layer and step."""
    rates = {name: T([0.02, 0.01, 0.03], requires_grad=True) for name in START}
    rule = per_step(sgd(1.0), lr=rates)
    assert {n: g.shape for n, g in estimate(rule).grad_optimizer["lr"].items()} == dict.fromkeys(START, (3,))
    for estimator in ("exact", "mixed"):
        value = after_training(inner, outer, START, C, optimizer=rule, steps=3, estimator=estimator)
        slopes = torch.autograd.grad(value, list(rates.values()))
        for name, slope in zip(rates, slopes, strict=True):
            for t in range(3):
                step = 1e-6 * torch.nn.functional.one_hot(torch.tensor(t), 3)
                ends = [
                    outer(end(per_step(sgd(1.0), lr={**rates, name: rates[name] + s * step})), C, None) for s in (1, -1)
                ]
                assert float(slope[t]) == pytest.approx(float(ends[0] - ends[1]) / 2e-6, rel=1e-6)


def test_one_number_for_all_steps_may_be_set_later_and_groups_keep_the_rest() -> None:
    rule = per_step(sgd(1.0), lr=T([0.02, 0.01, 0.03]))
    assert_same(end(rule.with_hyper(lr=0.01)), end(sgd(0.01)))
    assert_same(end(rule.with_hyper(lr=T(0.01))), end(sgd(0.01)))
    grouped = parameter_groups(rule, START, {"b": {"lr": 0.0}})
    assert torch.equal(end(grouped)["b"], START["b"]) and not torch.equal(end(grouped)["a"], START["a"])
    twice = per_step(per_step(sgd(1.0), lr=[0.02, 0.01, 0.03]), weight_decay=[0.1, 0.2, 0.3])
    once = per_step(sgd(1.0), lr=[0.02, 0.01, 0.03], weight_decay=[0.1, 0.2, 0.3])
    assert_same(end(twice), end(once))


def test_a_tensor_that_a_function_of_the_step_reaches_is_refused_where_its_gradient_would_be_lost() -> None:
    rate = T(0.01, requires_grad=True)
    rule = per_step(sgd(1.0), lr=lambda t: rate / (t + 1))
    with pytest.raises(CannotDifferentiate, match="none of its hyperparameters"):
        after_training(inner, outer, START, C.clone().requires_grad_(), optimizer=rule, steps=3)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: per_step(sgd(0.1), rate=[0.1]), "sgd has no hyperparameter 'rate'; choose one of: dampening, lr"),
        (lambda: per_step(adam(0.1), betas=[0.1]), "adam has no hyperparameter 'betas', but 'beta1' and 'beta2'"),
        (lambda: per_step(per_step(sgd(0.1), lr=[0.1]), lr=[0.1]), "has no hyperparameter 'lr'"),
        (lambda: per_step(sgd, lr=[0.1]), "sgd makes one when it is called"),
        (lambda: per_step(sgd(0.1), lr=T(0.1)), "lr is a tensor .steps., not one without dimensions"),
        (lambda: per_step(sgd(0.1), lr=[0.1, -0.1]), "lr must be a finite number of at least 0, not -0.1"),
        (
            lambda: per_step(sgd(0.1), lr=[T(0.1, requires_grad=True)]),
            r"pass one tensor of all values, such as torch.stack",
        ),
        (lambda: per_step(sgd(0.1), lr="0.1"), "a function of the step, .* not a str"),
        (lambda: sgd([0.1, 0.2]), r"for one value per step there is per_step\(rule, lr=\[...\]\)"),
        (lambda: end(per_step(sgd(0.1), lr=[0.1, 0.1])), "the schedule has 2 values, but step 3 was asked for"),
        (
            lambda: end(per_step(sgd(0.1), lr={"a": T([0.1] * 3), "b": [0.1] * 2})),
            "the schedule has 2 values, but step 3",
        ),
        (lambda: end(per_step(sgd(0.1), lr={"a": [0.1] * 3})), "lr has no value for the parameter 'b'"),
        (lambda: end(per_step(sgd(0.1), lr=[0.1] * 3).with_hyper(lr=T([0.1]))), "has no hyperparameter"),
        (
            lambda: end(per_step(sgd(0.1), lr=T([0.1] * 3)).with_hyper(lr=T([0.1]))),
            "the schedule has 1 values, but step 2",
        ),
    ],
)
def test_values_that_say_nothing_of_a_step_are_refused(make: Any, said: str) -> None:
    with pytest.raises(UnsupportedOptimizer, match=said):
        make()


def test_implicit_estimators_say_what_they_lack() -> None:
    with pytest.raises(
        EstimatorError, match="this rule's weight decay is another at each step; take 'exact' or 'mixed'"
    ):
        estimate(per_step(sgd(0.1), weight_decay=[0.1] * 3), "cg", wrt_start=False)
    for lr in ([0.1] * 3, T([0.1] * 3)):
        with pytest.raises(EstimatorError, match="'neumann' with several inner learning rates needs alpha"):
            estimate(per_step(sgd(0.1), lr=lr), "neumann", wrt_start=False)
    with pytest.raises(EstimatorError, match="masked.. holds parameters fixed"):
        estimate(masked(sgd(0.1), "a"), "cg", wrt_start=False)
    with pytest.raises(EstimatorError, match="this partition has several weight decays"):
        estimate(partition({"a": sgd(0.1), "b": sgd(0.1)}), "cg", wrt_start=False)

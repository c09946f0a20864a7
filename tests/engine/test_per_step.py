"""Values per step, rules for some parameters, a function of one's own on the gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from metaimpute.engine import (
    Batches,
    CannotDifferentiate,
    Compiled,
    EstimatorError,
    UnsupportedOptimizer,
    adadelta,
    adafactor,
    adam,
    adamax,
    adamw,
    after_training,
    chain,
    clip,
    clip_by_global_norm,
    gradient_callback,
    hypergradient,
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
    unroll,
)

pytestmark = pytest.mark.usefixtures("float64")


def T(*values: Any, **options: Any) -> Tensor:
    return torch.tensor(*values, dtype=torch.float64, **options)


START, C = {"a": T([3.0, -0.2]), "b": T([[1.0, 0.5], [0.2, -1.0]])}, T([0.3, 0.1])


def inner(th: Any, c: Any, batch: Any) -> Tensor:
    return ((th["b"] @ th["a"] - c) ** 2).sum() + 0.1 * (th["a"] ** 4).sum()


def outer(th: Any, c: Any, batch: Any) -> Tensor:
    return (th["a"] - 0.3).square().sum() + (th["b"].sum() - 1).square()


def end(rule: Any, steps: int = 3, loss: Any = inner) -> Any:
    return unroll(loss, START, C, [None], rule, steps, differentiable=False).params


def estimate(rule: Any, estimator: str = "exact", loss: Any = inner, **options: Any) -> Any:
    return hypergradient(loss, outer, START, C, Batches([None], None), rule, estimator, steps=3, **options)


def assert_same(found: Any, expected: Any) -> None:
    for name, p in expected.items():
        torch.testing.assert_close(found[name], p, rtol=1e-13, atol=1e-14)


# values per step ---------------------------------------------------------------------------------------------------


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
        (lambda: per_step(sgd(0.1), rate=[0.1]), "sgd has no hyperparameter 'rate'; it has lr, momentum"),
        (lambda: per_step(adam(0.1), betas=[0.1]), "adam has no hyperparameter 'betas'; it has lr, beta1"),
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


# some parameters ---------------------------------------------------------------------------------------------------


def test_a_masked_rule_moves_what_it_is_for_as_if_it_were_alone() -> None:
    for where in ("a", ["a"], lambda name, p: p.ndim == 1):
        found = end(masked(adam(0.1), where))
        alone = unroll(
            lambda th, c, b: inner({**START, **th}, c, b),
            {"a": START["a"]},
            C,
            [None],
            adam(0.1),
            3,
            differentiable=False,
        )
        assert torch.equal(found["b"], START["b"])
        assert_same({"a": found["a"]}, alone.params)


def test_a_masked_transform_leaves_others_gradients_as_they_are() -> None:
    rule = chain(masked(clip(0.01), "a"), masked(clip_by_global_norm(0.1), "b"), sgd(0.1))
    assert {"clip_value", "clip_norm"} <= set(rule.hyper)
    at = {name: p.clone().requires_grad_() for name, p in START.items()}
    a, b = torch.autograd.grad(inner(at, C, None), list(at.values()))
    found = end(rule, 1)
    torch.testing.assert_close(found["a"], START["a"] - 0.1 * a.clamp(-0.01, 0.01), rtol=1e-13, atol=0)
    torch.testing.assert_close(found["b"], START["b"] - 0.1 * b * 0.1 / (b.norm() + 1e-6), rtol=1e-12, atol=0)


@pytest.mark.parametrize("estimator", ["exact", "mixed", "forward", "head"])
def test_a_partition_is_its_rules_side_by_side_and_all_is_learned(estimator: str) -> None:
    T_ = T
    rule = partition([("*", sgd(T_(0.01), T_(0.5))), (lambda name, p: p.ndim == 2, adamw(T_(0.1), eps=T_(0.1)))])
    assert rule.hyper["lr_2"] == 0.1 and rule.label == "momentum+adamw"
    start = {name: p.clone().requires_grad_() for name, p in START.items()}
    stock = [torch.optim.SGD([start["a"]], lr=0.01, momentum=0.5), torch.optim.AdamW([start["b"]], lr=0.1, eps=0.1)]
    for _ in range(3):
        for one in stock:
            one.zero_grad()
        inner(start, C, None).backward()
        for one in stock:
            one.step()
    assert_same(end(rule), {name: p.detach() for name, p in start.items()})
    how: Any = estimator
    if estimator == "head":
        from metaimpute.engine import get_estimator

        how = get_estimator("head", parameters=("a", "b"))
    found = estimate(rule, how, wrt_start=False).grad_optimizer
    for key in ("lr", "momentum", "lr_2", "eps"):
        ends = [outer(end(rule.with_hyper(**{key: rule.hyper[key] + s})), C, None) for s in (1e-6, -1e-6)]
        assert float(found[key]) == pytest.approx(float(ends[0] - ends[1]) / 2e-6, rel=1e-6) and found[key] != 0


def test_the_last_rule_that_matches_moves_a_parameter() -> None:
    assert_same(end(partition({"*": sgd(0.0), "a": sgd(0.01)})), end(masked(sgd(0.01), "a")))
    scheduled_parts = partition({"a": scheduled(sgd(0.01), [1.0, 1.0]), "b": sgd(0.1)})
    with pytest.raises(UnsupportedOptimizer, match="the schedule has 2 values, but step 3"):
        end(scheduled_parts)
    changed = parameter_groups(partition({"a": sgd(0.01), "b": adam(0.1)}), START, {"b": {"lr_2": 0.0}})
    assert torch.equal(end(changed)["b"], START["b"])


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: masked("sgd", "a"), "what masked.. is given, where it is no transform, is a rule, .*not 'sgd'"),  # type: ignore[type-var]
        (lambda: end(masked(sgd(0.1), "c*")), r"no parameter matches 'c\*'; there are a, b"),
        (lambda: end(partition({"a": sgd(0.1)})), "no rule of this partition is for the parameter 'b'; add one for '\\*'"),
        (lambda: partition({}), r'give at least one, such as \{"\*": sgd\(0.1\)\}'),
        (lambda: partition({"*": sgd}), "sgd makes one when it is called"),  # type: ignore[dict-item]
        (lambda: partition({"a": sgd(0.1), "b": sgd(0.1, maximize=True)}), "let all do the same"),
        (lambda: unroll(lambda th, c, b: th["x"]["w"].sum(), {"x": {"w": torch.ones(1)}}, None, [None], masked(sgd(0.1), "x"), 1),
         "need parameters as one flat dict"),
        (lambda: partition({"a": sgd(0.1), "b": adam(0.1)}).with_hyper(lr_3=0.1), "has no hyperparameter"),
        (lambda: partition({"a": adafactor(), "b": adafactor()}).with_hyper(lr=-0.1, beta2_decay_2=-0.3), "lr must be .* at least 0"),
    ],
)  # fmt: skip
def test_parts_that_do_not_fit_are_refused(make: Any, said: str) -> None:
    with pytest.raises(UnsupportedOptimizer, match=said):
        make()


def test_the_higher_backend_does_not_move_what_is_masked() -> None:
    for rule in (masked(sgd(0.1), "a"), partition({"*": sgd(0.1)}), per_step(sgd(0.1), lr=[0.1] * 3)):
        with pytest.raises(EstimatorError, match="backend 'higher'"):
            estimate(rule, backend="higher")


# a function of one's own -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("estimator", ["exact", "mixed", "forward"])
def test_a_gradient_callback_is_differentiated(estimator: str) -> None:
    def centred(grads: Any) -> Any:
        return {name: g - 0.5 * g.mean() * g.square().sum() for name, g in grads.items()}

    rule = chain(gradient_callback(centred), sgd(T(0.01)))
    found = estimate(rule, estimator, wrt_start=False)
    step = 1e-6 * T([1.0, 0.0])
    ends = [
        outer(unroll(inner, START, c, [None], rule, 3, differentiable=False).params, c, None)
        for c in (C + step, C - step)
    ]
    assert float(found.grad_c[0]) == pytest.approx(float(ends[0] - ends[1]) / 2e-6, rel=1e-6)
    assert not torch.allclose(end(rule)["a"], end(sgd(0.01))["a"])


def test_a_gradient_callback_may_only_look() -> None:
    seen: list[float] = []

    def look(grads: Any) -> None:
        seen.append(float(grads["a"].norm()))

    assert_same(end(chain(gradient_callback(look), sgd(0.01))), end(sgd(0.01)))
    assert len(seen) == 3 and seen[0] != seen[1]


def test_a_gradient_callback_that_returns_something_else_is_refused() -> None:
    for wrong in (lambda g: {"a": g["a"]}, lambda g: {**g, "a": g["a"][:1]}, lambda g: 3):
        with pytest.raises(UnsupportedOptimizer, match="return tensors of the same shapes"):
            end(chain(gradient_callback(wrong), sgd(0.01)))
    outside = T(1.0, requires_grad=True)
    rule = chain(gradient_callback(lambda g: {name: slope * outside for name, slope in g.items()}), sgd(0.01))
    with pytest.raises(CannotDifferentiate, match="none of its hyperparameters"):
        after_training(inner, outer, START, C.clone().requires_grad_(), optimizer=rule, steps=2)


# rules at their corners --------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("rule", [nadam(), radam(), adadelta(), adamax(), adafactor(), lion(), muon()])
def test_complex_parameters_are_refused_in_words(rule: Any) -> None:
    with pytest.raises(UnsupportedOptimizer, match=f"{rule.label} moves real parameters; .*view_as_real"):
        rule.init({"w": torch.zeros(2, dtype=torch.complex128)})

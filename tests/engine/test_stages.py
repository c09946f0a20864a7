"""Rules whose step has several stages: SAM's two gradients, schedule-free's look without one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from metaimpute.engine import (
    Batches,
    Compiled,
    EstimatorError,
    InnerOptimizer,
    UnsupportedOptimizer,
    adafactor,
    adam,
    after_training,
    apply_updates,
    averaged,
    begin,
    chain,
    clip,
    clip_norm,
    hypergradient,
    masked,
    muon,
    parameter_groups,
    partition,
    per_step,
    sam,
    schedule_free_adamw,
    schedule_free_sgd,
    scheduled,
    sgd,
    sharpness_aware,
    stacked,
    unroll,
)
from metaimpute.engine.pytree import leaves_of

pytestmark = pytest.mark.usefixtures("float64")


def T(*values: Any, **options: Any) -> Tensor:
    return torch.tensor(*values, dtype=torch.float64, **options)


RULES: dict[str, Any] = {
    "sam": lambda: sam(T(0.1), T(0.8), rho=T(0.2)),
    "schedule_free": lambda: schedule_free_sgd(T(0.2), weight_decay=T(0.1)),
    "averaged": lambda: averaged(sgd(T(0.1), T(0.5)), T(0.6)),
}
both = pytest.mark.parametrize("rule", RULES)


def inner(th: Any, c: Any, batch: Any) -> Tensor:
    noise = torch.randn(3)
    return ((th["w"] - c) ** 2 * batch + 0.1 * th["w"] ** 4 + 0.05 * noise * th["w"]).sum()


def outer(th: Any, c: Any, batch: Any) -> Tensor:
    return (th["w"] - 0.3).square().sum()


START, C = {"w": T([3.0, -0.2, 1.0])}, T([0.3, 0.1, -0.4])
DATA = [T(0.5), T(1.0), T(1.5)]


def estimate(rule: InnerOptimizer, estimator: Any = "exact", loss: Any = inner, **options: Any) -> Any:
    return hypergradient(loss, outer, START, C, Batches(DATA, None), rule, estimator, steps=3, seed=5, **options)


def test_one_sharpness_aware_step_and_its_derivative_in_closed_form() -> None:
    """On ``a w^2 / 2`` the length of e is rho, so the step is that at ``w + rho`` for a positive w, and e has slope 0 in both."""
    a, w, rho, lr = T(0.7, requires_grad=True), T(1.5, requires_grad=True), T(0.2, requires_grad=True), 0.1
    end = unroll(lambda th, c, b: c * th["w"] ** 2 / 2, {"w": w}, a, [None], sam(lr, 0.0, rho=rho), 1)
    torch.testing.assert_close(end.params["w"], w - lr * a * (w + rho), rtol=1e-11, atol=0)
    slopes = torch.autograd.grad(end.params["w"], [a, w, rho])
    for found, expected in zip(slopes, [-lr * (w + rho), 1 - lr * a, -lr * a], strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-11, atol=0)
    losses = [0.7 * 1.5**2 / 2]
    assert [float(loss) for loss in end.losses] == pytest.approx(losses), "one loss a step, at its start"


def test_schedule_free_without_momentum_is_the_mean_of_the_iterates() -> None:
    """At ``momentum = 0`` gradients are at z, plain gradient descent, and the result is the mean of z_1 to z_k."""
    end = unroll(lambda th, c, b: (th["w"] ** 2).sum(), START, None, [None], schedule_free_sgd(0.1, 0.0), 4)
    expected = START["w"] * sum(0.8**t for t in range(1, 5)) / 4
    torch.testing.assert_close(end.params["w"], expected, rtol=1e-13, atol=0)
    assert [float(x) for x in end.losses] == pytest.approx(
        [float((START["w"] * 0.8**t).square().sum()) for t in range(4)]
    )


@both
def test_both_gradients_of_a_step_see_one_batch_and_one_noise(rule: str) -> None:
    seen: list[tuple[float, float]] = []

    def loss(th: Any, c: Any, batch: Any) -> Tensor:
        noise = torch.randn(())
        seen.append((float(batch), float(noise)))
        return (th["w"] * (batch + noise)).sum()

    unroll(loss, START, None, DATA, RULES[rule](), 3, differentiable=False, seed=1)
    count = sum(RULES[rule]().stages)
    assert len(seen) == 3 * count and len(set(seen)) == 3, "as many evaluations as gradients"
    assert [batch for batch, _ in seen[::count]] == [0.5, 1.0, 1.5]


@both
def test_a_recording_is_the_value_after_training(rule: str) -> None:
    for estimator, memory in (
        ("exact", "store"),
        ("exact", "recompute"),
        ("mixed", "store"),
        ("truncated(2)", "store"),
    ):
        c = [C.clone().requires_grad_() for _ in range(2)]
        value = after_training(
            inner,
            outer,
            START,
            c[0],
            optimizer=RULES[rule](),
            steps=3,
            batches=DATA,
            estimator=estimator,
            memory=memory,
            seed=5,
        )
        recording = begin(START, c[1], inner, optimizer=RULES[rule](), estimator=estimator, memory=memory, seed=5)
        for batch in DATA:
            recording = recording.step(batch)
        again = recording.value(outer)
        assert float(again) == float(value) and len(recording.losses) == 3
        slopes = [torch.autograd.grad(v, leaf)[0] for v, leaf in zip((value, again), c, strict=True)]
        torch.testing.assert_close(*slopes, rtol=1e-13, atol=0)


@both
def test_estimators_report_one_loss_a_step_and_the_gradient_at_the_start(rule: str) -> None:
    results = {name: estimate(RULES[rule](), name) for name in ("exact", "mixed", "first_order", "forward_gradient")}
    results["forward"] = estimate(RULES[rule](), "forward", wrt_start=False)
    results["compiled"] = estimate(RULES[rule](), loss=Compiled(inner, backend="eager"))
    for name, found in results.items():
        assert len(found.diagnostics["inner_losses"]) == 3, name
        torch.testing.assert_close(found.theta_k, results["exact"].theta_k, rtol=1e-12, atol=0, msg=name)
        torch.testing.assert_close(found.first_gradient, results["exact"].first_gradient, rtol=1e-12, atol=0, msg=name)


@both
def test_a_parameter_that_takes_no_part_stays_as_it_is(rule: str) -> None:
    start = {"w": torch.ones(2), "unused": torch.ones(2), "n": torch.tensor(7), "k": 5}
    for name in ("exact", "mixed", "forward"):
        found = hypergradient(
            lambda th, c, b: (th["w"] * c).square().sum(), lambda th, c, b: th["w"].sum(), start, torch.ones(2),
            Batches([None], None), RULES[rule](), name, steps=2,
        )  # fmt: skip
        assert torch.equal(found.theta_k["unused"], start["unused"]) and found.theta_k["k"] == 5
        assert not torch.equal(found.theta_k["w"], start["w"])


@pytest.mark.parametrize("estimator", ["exact", "mixed", "forward"])
@both
def test_complex_parameters_are_looked_ahead_of_as_well(rule: str, estimator: str) -> None:
    start = {"w": torch.tensor([1 + 1j, 0.5 - 0.3j], dtype=torch.complex128)}

    def loss(th: Any, c: Any, b: Any) -> Tensor:
        return ((th["w"].abs() ** 2 - c) ** 2).sum() + (th["w"].real * th["w"].imag).sum()

    def end(c: Tensor) -> float:
        return float(
            (unroll(loss, start, c, [None], made, 2, differentiable=False).params["w"] - 0.3j).abs().square().sum()
        )

    made, c, step = RULES[rule](), T([0.5, 0.2]), T([1e-6, 0.0])
    found = hypergradient(
        loss, lambda th, c, b: (th["w"] - 0.3j).abs().square().sum(), start, c, Batches([None], None), made, estimator, steps=2,
        wrt_start=False,
    )  # fmt: skip
    assert float(found.grad_c[0]) == pytest.approx((end(c + step) - end(c - step)) / 2e-6, rel=1e-6)


def test_nothing_moves_where_nothing_takes_part() -> None:
    for make in RULES.values():
        end = unroll(lambda th, c, b: torch.zeros(()), START, None, [None], make(), 2, differentiable=False)
        assert torch.equal(end.params["w"], START["w"])


def test_a_rule_inside_is_clipped_and_scheduled() -> None:
    """Against the same steps written out with the rule itself."""
    rule = sharpness_aware(scheduled(clip_norm(sgd(0.3, 0.9), 0.5), [1.0, 0.5, 0.25]), 0.2)
    assert set(rule.hyper) >= {"rho", "clip_norm", "lr"}
    end = unroll(outer, START, None, [None], rule, 3, differentiable=False)
    w, buffer = START["w"].clone(), torch.zeros(3)
    for factor in (1.0, 0.5, 0.25):
        here = 2 * (w - 0.3)
        there = 2 * (w + 0.2 * here / here.norm() - 0.3)
        buffer = 0.9 * buffer + there * min(1.0, 0.5 / float(there.norm()))
        w = w - 0.3 * factor * buffer
    torch.testing.assert_close(end.params["w"], w, rtol=1e-6, atol=0)


def test_a_stage_without_a_gradient_costs_no_evaluation_and_its_rule_may_be_ones_own() -> None:
    """Nesterov's look-ahead, as it was first written: from ``p + beta v``, where the gradient is taken, back, and on."""

    def init(params: Any) -> Any:
        return {"v": torch.zeros(3), "at": None}

    def update(grads: Any, state: Any, params: Any, hyper: Any) -> Any:
        if state["at"] is None:
            return {"w": hyper["beta"] * state["v"]}, {"v": state["v"], "at": params["w"]}
        v = hyper["beta"] * state["v"] - hyper["lr"] * grads["w"]
        return {"w": state["at"] + v - params["w"]}, {"v": v, "at": None}

    rule = InnerOptimizer(init, update, {"lr": T(0.1), "beta": T(0.9)}, "look_ahead", stages=(False, True))
    results = [estimate(rule, name) for name in ("exact", "mixed")]
    w, v = START["w"], torch.zeros(3)
    for field in ("grad_c", "grad_theta_0", "grad_optimizer"):
        torch.testing.assert_close(*(getattr(found, field) for found in results), rtol=1e-11, atol=0)
    plain = unroll(lambda th, c, b: (th["w"] ** 2).sum(), START, None, [None], rule, 3, differentiable=False).params[
        "w"
    ]
    for _ in range(3):
        v = 0.9 * v - 0.1 * 2 * (w + 0.9 * v)
        w = w + v
    torch.testing.assert_close(plain, w, rtol=1e-13, atol=0)


@pytest.mark.parametrize("estimator", ["exact", "mixed", "forward_gradient"])
def test_a_state_that_begins_at_the_parameters_is_differentiated(estimator: str) -> None:
    """Lookahead (Zhang et al., 2019) with slow weights in the state: the start acts through ``init`` as well."""

    def init(params: Any) -> Any:
        return {"slow": params["w"] * 1.0, "t": 0}

    def update(grads: Any, state: Any, params: Any, hyper: Any) -> Any:
        fast = params["w"] - hyper["lr"] * grads["w"]
        slow = state["slow"] + hyper["share"] * (fast - state["slow"])
        return {"w": slow - params["w"]}, {"slow": slow, "t": state["t"] + 1}

    rule = InnerOptimizer(init, update, {"lr": T(0.1), "share": T(0.5)}, "lookahead")
    found, direction = estimate(rule, estimator), torch.randn(3)

    def value(step: float) -> float:
        start = {"w": START["w"] + step * direction}
        return float(outer(unroll(inner, start, C, DATA, rule, 3, differentiable=False, seed=5).params, C, None))

    if estimator == "forward_gradient":  # one direction of signs, u: it gives the slope along u, times u
        exact = estimate(rule)
        pairs = [(found.grad_c, exact.grad_c), (found.grad_theta_0["w"], exact.grad_theta_0["w"])]
        pairs += [(found.grad_optimizer[key], exact.grad_optimizer[key]) for key in found.grad_optimizer]
        along = torch.stack([(estimated.sign() * slope).sum() for estimated, slope in pairs]).sum()
        torch.testing.assert_close(found.grad_c.abs(), along.abs().expand(3), rtol=1e-10, atol=0)
        return
    slope = (value(1e-5) - value(-1e-5)) / 2e-5
    assert float((found.grad_theta_0["w"] * direction).sum()) == pytest.approx(slope, rel=1e-8)


@both
def test_what_would_count_stages_as_steps_is_refused(rule: str) -> None:
    made = RULES[rule]()
    for estimator in ("finite_difference", "approx"):
        with pytest.raises(
            EstimatorError, match=f"'{estimator}' takes one gradient a step, .* has 2 stages; these take any: .*mixed"
        ):
            hypergradient(inner, outer, START, C, Batches([DATA[0]], None), made, estimator, steps=1, wrt_start=False)
    for wrap in (
        lambda: chain(clip(1.0), made),
        lambda: scheduled(made, [1.0]),
        lambda: masked(made, "w"),
        lambda: partition({"*": made}),
        lambda: sharpness_aware(made),
    ):
        with pytest.raises(UnsupportedOptimizer, match="has 2 stages"):
            wrap()


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: sharpness_aware(sgd(0.1, maximize=True)), "negate the loss instead of maximize"),
        (lambda: sharpness_aware(sgd), "sgd makes one when it is called"),
        (lambda: averaged(sam(0.1)), "averaged.. is given sam, whose step has 2 stages; average the rule inside"),
        (lambda: averaged(sgd(0.1), start=-1), "start is a whole number of at least 0, not -1"),
        (lambda: averaged(sgd(0.1), {"w": 0.5}), "decay is one number for all parameters, not a dict"),
        (
            lambda: InnerOptimizer(lambda p: None, lambda g, s, p, h: (g, s), {}, "mine", stages=(True, False)),
            "the stages of mine end with one that gets a gradient",
        ),
        (lambda: sam(0.1, rho=-1.0), "sam: rho must be a finite number of at least 0, not -1.0"),
        (lambda: sam(0.1, rho={"w": 1.0}), "rho is one number for all parameters, not a dict"),
        (lambda: parameter_groups(sam(0.1), {"w": 0}, {"w": {"rho": 1.0}}), "rho is one for all parameters"),
        (lambda: schedule_free_sgd(0.1, warmup_steps=2.5), "warmup_steps is a whole number of at least 0, not 2.5"),  # type: ignore[arg-type]
        (lambda: schedule_free_sgd(0.1, momentum=1.0), r"momentum must lie in \[0, 1\)"),
        (lambda: schedule_free_adamw(0.1, eps=float("nan")), "eps must be a finite number"),
    ],
)
def test_options_that_mean_nothing_are_refused(make: Any, said: str) -> None:
    with pytest.raises(UnsupportedOptimizer, match=said):
        make()


def test_sam_has_no_stationary_point_for_implicit_differentiation_and_mixes_a_stack() -> None:
    with pytest.raises(EstimatorError, match="there the gradient uphill is 0; take 'exact' or 'mixed'"):
        estimate(RULES["sam"](), "cg", wrt_start=False)
    for rule in (RULES["sam"](), adafactor(), muon()):
        with pytest.raises(EstimatorError, match=f"'{rule.label}' mixes the problems of a stacked loss"):
            estimate(rule, "exact", loss=stacked(inner))


def test_schedule_free_at_its_stationary_point_is_differentiated_implicitly() -> None:
    def loss(th: Any, c: Any, b: Any) -> Tensor:
        return ((th["w"] - c) ** 2 * T([1.0, 2.0, 3.0])).sum() / 2 + 0.1 * (th["w"] ** 4).sum()

    found = [
        hypergradient(
            loss,
            outer,
            START,
            C,
            Batches([None], None),
            schedule_free_sgd(0.1, weight_decay=0.1, r=30.0),
            name,
            steps=1500,
        )
        for name in ("exact", "cg(10)")
    ]
    torch.testing.assert_close(found[0].grad_c, found[1].grad_c, rtol=1e-6, atol=1e-9)


def test_the_outer_loss_gets_the_mean_and_not_where_gradients_are_taken() -> None:
    rule, theta = schedule_free_sgd(0.2), START
    state = rule.init(theta)
    points = []
    for _ in range(6):
        grads = {"w": 2 * theta["w"]} if points and len(points) % 2 else {"w": None}
        updates, state = rule.update(grads, state, theta, rule.hyper)
        theta = apply_updates(theta, updates)
        points.append(theta["w"])
    assert not torch.equal(points[4], points[3]), "the fifth call leads off the mean"
    assert all(leaf is None for leaf in leaves_of(state["parked"]))
    end = unroll(lambda th, c, b: (th["w"] ** 2).sum(), START, None, [None], rule, 3, differentiable=False)
    torch.testing.assert_close(end.params["w"], points[5], rtol=1e-14, atol=0)


def test_per_step_counts_steps_and_not_stages() -> None:
    ramp = per_step(sam(0.1, 0.0), lr=[0.1, 0.0, 0.2], rho=lambda t: 0.1 * t)
    ends = [unroll(outer, START, None, [None], ramp, k, differentiable=False).params["w"] for k in (1, 2, 3)]
    assert torch.equal(ends[0], ends[1]) and not torch.equal(ends[1], ends[2])
    plain = unroll(outer, START, None, [None], sgd(0.1), 1, differentiable=False).params["w"]
    torch.testing.assert_close(ends[0], plain, rtol=1e-12, atol=0)


def test_adam_inside_sam_counts_steps() -> None:
    rule = sharpness_aware(adam(0.1), 0.1)
    end = unroll(outer, START, None, [None], rule, 3, differentiable=False)
    assert end.state["rule"][0][0] == 3

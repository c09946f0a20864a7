"""Plans: predicted bytes are those that are taken, what is recommended fits and is exact, and questions that have no answer."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import metaimpute
from metaimpute.engine import (
    BadMemoryPolicy,
    Batches,
    Factored,
    FunctionalModel,
    PlanError,
    StructuredLoss,
    UnsupportedOptimizer,
    adam,
    hypergradient,
    plan,
    sgd,
)
from metaimpute.engine.live_memory import LiveBytes
from metaimpute.engine.registry import UnknownName

ROWS = 32


class Problem:
    """Weights of examples of a small classifier, whose activations outweigh its parameters."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        torch.manual_seed(0)
        layers = nn.Sequential(nn.Linear(6, 24), nn.Tanh(), nn.Linear(24, 24), nn.Tanh(), nn.Linear(24, 3))
        self.model = FunctionalModel(layers.to(dtype))
        self.x, self.y = torch.randn(ROWS, 6, dtype=dtype), torch.randint(0, 3, (ROWS,))
        self.weights = torch.ones(ROWS, dtype=dtype)

    def inner(self, theta: Any, c: Tensor, batch: Any) -> Tensor:
        return (c * F.cross_entropy(self.model(theta, self.x), self.y, reduction="none")).mean()

    def outer(self, theta: Any, c: Tensor, batch: Any) -> Tensor:
        return F.cross_entropy(self.model(theta, self.x[::2]), self.y[::2])

    @property
    def arguments(self) -> tuple[Any, ...]:
        return self.inner, self.outer, self.model.params, self.weights, None

    def peak(self, rule: Any, steps: int, **how: Any) -> int:
        with LiveBytes() as live:
            hypergradient(*self.arguments, rule, steps=steps, seed=0, **how)
        return live.peak


@pytest.mark.parametrize("rule", [sgd(0.1), sgd(0.1, momentum=0.9), adam(0.01)], ids=lambda rule: rule.label)
def test_predicted_bytes_are_those_that_are_taken(rule: Any) -> None:
    problem, steps = Problem(), 40
    stored = problem.peak(rule, steps, wrt_start=False)
    found = plan(*problem.arguments, rule, steps=steps, budget=stored // 3, seconds=0.2)
    assert {one.estimator for one in found.choices} >= {"exact", "mixed", "truncated(1)", "first_order"}
    for one in found.choices:
        if one.estimator == "cg(5)":  # whose iterations end early at a direction of negative curvature
            continue
        taken = problem.peak(rule, steps, **one.arguments)
        assert taken == pytest.approx(one.peak, rel=0.12), one
        if one.memory != "recompute":  # whose prediction is an upper bound
            assert taken <= 1.02 * one.peak, one
    budgeted = [one for one in found.choices if one.memory.startswith("auto")]
    assert len(budgeted) == 1 and budgeted[0].fits and budgeted[0].peak <= stored // 3


def test_what_is_recommended_fits_and_is_exact() -> None:
    problem, steps = Problem(torch.float64), 30
    rule = sgd(0.1, momentum=0.9)
    truth = hypergradient(*problem.arguments, rule, steps=steps, seed=0).grad_c
    stored = problem.peak(rule, steps, wrt_start=False)
    for budget in (None, 2 * stored, f"{stored // 4}B"):
        found = plan(*problem.arguments, rule, steps=steps, budget=budget, seconds=0.2, estimators=("exact", "mixed"))
        best = found.best
        assert best is not None and best.exact and best.fits and best is found.choices[0]
        if budget is None:
            assert best.memory == "store" and found.budget is None
        again = hypergradient(*problem.arguments, rule, steps=steps, seed=0, **best.arguments)
        torch.testing.assert_close(again.grad_c, truth, rtol=1e-10, atol=1e-14)
        assert again.grad_theta_0 is None and f"take '{best.estimator}'" in str(found)
    assert problem.peak(rule, steps, **best.arguments) <= stored // 4


def test_errors_of_estimates_are_those_after_the_steps_that_were_measured() -> None:
    problem = Problem(torch.float64)
    found = plan(*problem.arguments, sgd(0.1), steps=50, seconds=0.2)
    by_name = {one.estimator: one for one in found.choices if one.memory == "store"}
    steps = found.measured[1]
    truth = hypergradient(*problem.arguments, sgd(0.1), steps=steps, seed=0).grad_c
    for name in ("truncated(1)", "finite_difference"):
        estimate = hypergradient(*problem.arguments, sgd(0.1), name, steps=steps, seed=0).grad_c
        error = float((estimate - truth).norm() / truth.norm())
        assert by_name[name].error == pytest.approx(error, rel=1e-6)
    assert by_name["exact"].error == 0 and by_name["mixed"].error < 1e-12
    assert by_name["first_order"].error == pytest.approx(1) and by_name["first_order"].cosine == 0
    nearest = [one.error for one in found.choices if not one.exact]
    assert nearest == sorted(nearest)


def test_where_no_exact_gradient_fits_it_says_what_it_takes_and_what_else_there_is() -> None:
    problem, few = Problem(), ("exact", "mixed", "truncated(1)", "first_order")
    found = plan(*problem.arguments, sgd(0.1), steps=30, budget="1KB", seconds=0.1, estimators=few)
    assert found.best is None and not any(one.fits for one in found.choices)
    assert f"no exact gradient of 30 steps fits within 1000B: it takes {found.least / 1024:.0f}"[:52] in found.sentence
    assert problem.peak(sgd(0.1), 30, memory=f"auto({int(1.05 * found.least)}B)", wrt_start=False) <= 1.1 * found.least
    cheap = min(one.peak for one in found.choices)
    other = plan(*problem.arguments, sgd(0.1), steps=30, budget=cheap + 64, seconds=0.1, estimators=few)
    assert other.best is None and "does, with an error of" in other.sentence


def test_estimators_that_a_problem_is_not_for_are_named_with_the_reason() -> None:
    problem = Problem()
    found = plan(*problem.arguments, sgd(0.1), steps=5, seconds=0.1)
    assert "parameters by name" in found.refused["head"] and "32 scalars" in found.refused["forward"]
    assert "not for this problem: head" in str(found)
    start = plan(
        *problem.arguments, sgd(0.1), steps=5, seconds=0.1, wrt_start=True, estimators=("exact", "truncated(1)")
    )
    assert "start" in start.refused["truncated(1)"] and start.best is not None and start.best.arguments["wrt_start"]
    model = problem.model
    features = Factored(
        lambda theta, batch: model.features(theta, problem.x),
        lambda theta, seen, c, batch: (
            c * F.cross_entropy(model.readout(theta, seen), problem.y, reduction="none")
        ).mean(),
    )
    inner = StructuredLoss(problem.inner, model.head, factored=features)
    found = plan(
        inner,
        problem.outer,
        model.params,
        problem.weights,
        None,
        sgd(0.1),
        steps=5,
        seconds=0.1,
        estimators=("exact", "head"),
    )
    assert "head" in {one.estimator for one in found.choices}


def test_a_learned_rate_is_planned_for_with_forward_mode() -> None:
    problem = Problem(torch.float64)

    def plain(theta: Any, c: Any, batch: Any) -> Tensor:
        return problem.inner(theta, problem.weights, batch)

    rule = sgd(torch.tensor(0.1, dtype=torch.float64))
    found = plan(plain, problem.outer, problem.model.params, None, None, rule, steps=20, seconds=0.2)
    forward = next(one for one in found.choices if one.estimator == "forward")
    assert forward.exact and forward.error < 1e-10
    with pytest.raises(metaimpute.engine.EstimatorError, match="nothing to differentiate"):
        plan(plain, problem.outer, problem.model.params, None, None, sgd(0.1), steps=20, seconds=0.2)


def test_a_few_batches_are_enough_to_plan_with_and_nothing_of_the_callers_changes() -> None:
    problem = Problem()
    seen: list[int] = []

    def inner(theta: Any, c: Tensor, batch: int) -> Tensor:
        seen.append(batch)
        return problem.inner(theta, c, batch)

    before = copy.deepcopy(problem.model.params)
    generator = torch.get_rng_state()
    found = plan(inner, problem.outer, problem.model.params, problem.weights, Batches(list(range(100)), None), sgd(0.1),
                 steps=100, seconds=0.1, estimators=["exact"])  # fmt: skip
    assert max(seen) < 10 and found.steps == 100
    assert all(torch.equal(before[name], leaf) for name, leaf in problem.model.params.items())
    assert torch.equal(generator, torch.get_rng_state())


def test_a_single_step_has_nothing_to_repeat() -> None:
    problem = Problem()
    found = plan(*problem.arguments, sgd(0.1), steps=1, seconds=0.1)
    assert {one.memory for one in found.choices} == {"store"} and found.measured == (1, 1)
    best = found.best
    assert (
        best is not None and best.exact and found.least == next(c.peak for c in found.choices if c.estimator == "exact")
    )


@pytest.mark.parametrize(
    ("asked", "error", "said"),
    [
        ({"steps": 0}, PlanError, "steps must be a whole number of at least 1, not 0"),
        ({"steps": True}, PlanError, "steps must be"),
        ({"steps": 5, "seconds": 0}, PlanError, "seconds must be positive, not 0"),
        ({"steps": 5, "budget": "12parsecs"}, BadMemoryPolicy, "a number of bytes"),
        ({"steps": 5, "budget": 0}, BadMemoryPolicy, "positive number of bytes"),
        ({"steps": 5, "estimators": []}, PlanError, "estimators must hold 'exact'"),
        ({"steps": 5, "estimators": "mixed"}, PlanError, "estimators must hold 'exact'"),
        ({"steps": 5, "estimators": ["exact", "exakt"]}, UnknownName, "did you mean 'exact'"),
    ],
)
def test_questions_without_an_answer(asked: dict[str, Any], error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        plan(*Problem().arguments, sgd(0.1), **{"seconds": 0.1, **asked})


def test_a_missing_rule_is_named() -> None:
    with pytest.raises((UnsupportedOptimizer, TypeError), match="optimizer"):
        plan(*Problem().arguments, None, steps=5)


def test_a_gradient_that_is_not_finite_is_no_answer() -> None:
    problem = Problem()
    with pytest.raises(PlanError, match="not finite"):
        plan(lambda *a: problem.inner(*a) * float("nan"), *problem.arguments[1:], sgd(0.1), steps=5, seconds=0.1)

"""Learned rates: right gradients; a network's own step is the inner step with them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from metaimpute import recipes
from metaimpute.engine import get_estimator
from metaimpute.engine.pytree import detach
from metaimpute.problems import ProblemError, problems
from metaimpute.recipes.shipped import locate
from metaimpute.recipes.source import RecipeError
from metaimpute.testing import check_problem

from ..bound import bind

pytestmark = pytest.mark.usefixtures("float64")


@pytest.mark.parametrize("per", ["all", "layer", "tensor", "entry"])
def test_rates_have_the_gradients_of_finite_differences(per: Any) -> None:
    problem = problems.get("learned_rates")(per=per)
    report = check_problem(problem, recipe="digits_learned_rates", sets=("model={name: mlp, width: 5, depth: 1}",), steps=3,
                           estimators=["exact", "mixed"])  # fmt: skip
    rates = [term for term in report.terms if term.name not in ("theta_0", "meta")]
    assert rates and all(term.verdict == "right" and term.found for term in rates), report
    assert report.terms[-1].verdict == "right" and report.terms[-1].found, "through inner_hyper"


@pytest.mark.parametrize("estimator", ["exact", "mixed", "forward"])
def test_the_whole_way_from_rates_to_the_holdout_loss(estimator: str) -> None:
    """What a step of training moves the rates along, against differences of the loss after two steps by hand."""
    bound = bind("mean_teacher", "learned_rates", estimator, steps=2, problem_options={"per": "tensor"})
    algorithm, batch = bound.algorithm, bound.algorithm.prepare(bound.batch)
    found = algorithm.lookahead.estimate(batch, bound.holdout).found
    start = detach(bound.params)

    def loss(meta: Any) -> float:
        params = {name: p.clone().requires_grad_() for name, p in start.items()}
        for _ in range(2):
            value = algorithm.problem.inner_loss(params, {}, batch)
            slopes = torch.autograd.grad(value, list(params.values()))
            params = {n: (p - 0.5 * meta[n].exp() * g).detach().requires_grad_()
                      for (n, p), g in zip(params.items(), slopes, strict=True)}  # fmt: skip
        return float(algorithm.problem.supervised(params, bound.holdout).detach())

    for name, slope in found.items():
        ends = [loss({n: torch.tensor(step if n == name else 0.0) for n in found}) for step in (1e-5, -1e-5)]
        assert float(slope) == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-6, abs=1e-10) and slope != 0


def test_the_networks_own_step_has_the_learned_rates() -> None:
    bound = bind("mean_teacher", "learned_rates")
    plain = {n: g.clone() for n, g in bound.algorithm._base_gradient(bound.algorithm.prepare(bound.batch))[1].items()}
    with torch.no_grad():
        bound.algorithm.meta["0"].fill_(1.5)  # type: ignore[index]  # the first layer
    scaled = bound.algorithm._base_gradient(bound.algorithm.prepare(bound.batch))[1]
    for name, slope in plain.items():
        factor = torch.tensor(1.5).exp() if name.startswith("0.") else 1.0
        torch.testing.assert_close(scaled[name], factor * slope)


def test_layers_share_a_rate_and_entries_do_not() -> None:
    shapes = {per: {n: tuple(v.shape) for n, v in (bind("mean_teacher", "learned_rates", problem_options={"per": per}).algorithm.meta or {}).items()}
              for per in ("all", "layer", "tensor", "entry")}  # fmt: skip
    assert shapes["all"] == {"all": ()} and shapes["layer"] == {"0": (), "2": ()}
    assert set(shapes["tensor"]) == {"0.weight", "0.bias", "2.weight", "2.bias"} and shapes["entry"]["0.weight"] == (
        6,
        4,
    )


def test_what_cannot_be_learned_is_refused() -> None:
    def load(*sets: str) -> Any:
        return recipes.load(locate(Path("digits_learned_rates")), "sample", sets)

    with pytest.raises(
        RecipeError, match=r"problem.inner.rate: 'learned_rates' learns the learning rate itself; leave rate out"
    ):
        load("problem.inner.rate=learned")

    class Silent(type(get_estimator("exact"))):  # type: ignore[misc]
        def differentiate(self, problem: Any) -> Any:
            return dataclasses.replace(super().differentiate(problem), grad_optimizer={})

    bound = bind("mean_teacher", "learned_rates")
    look_ahead = bound.algorithm.lookahead
    look_ahead.settings = dataclasses.replace(look_ahead.settings, estimator=Silent())
    with pytest.raises(
        ProblemError, match="learns lr of the inner steps, and estimator 'exact' gives no gradient of that"
    ):
        bound.algorithm.step(bound.batch, bound.holdout)

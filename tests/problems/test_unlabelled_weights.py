"""Weights of unlabelled rows: right gradients, the implicit ones at a stationary point included."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from metaimpute.engine import Batches, hypergradient, sgd
from metaimpute.problems.unlabelled_weights import UnlabelledWeights
from metaimpute.testing import check_problem

from ..bound import bind
from .test_ds3l import SMALL


def test_its_gradients_are_those_of_finite_differences() -> None:
    check_problem(UnlabelledWeights(), recipe="digits_unlabelled_weights", sets=SMALL, estimators=["exact", "mixed"])


def test_weights_are_those_of_the_batchs_rows() -> None:
    bound = bind("mean_teacher", "unlabelled_weights")
    problem, meta = bound.algorithm.problem, {"logits": torch.arange(5.0, dtype=torch.float64)}
    assert torch.equal(problem.couple(meta, bound.batch), meta["logits"][bound.batch.unlabelled.index].sigmoid())


@pytest.mark.parametrize("estimator", ["cg(60)", pytest.param("neumann(2000)", marks=pytest.mark.slow)])
def test_its_implicit_form_is_the_derivative_of_the_minimum(estimator: str) -> None:
    """Of a linear network with weight decay, whose inner minimum is reached: against differences of the minimum itself."""
    bound = bind("mean_teacher", "unlabelled_weights", method_options={"weight": 2.0})
    problem, batch = bound.algorithm.problem, bound.algorithm.prepare(bound.batch)
    start = {name: p.detach() for name, p in bound.params.items()}
    rule, weights = sgd(0.3, weight_decay=0.2), torch.full((5,), 0.7, dtype=torch.float64)

    def at(c: torch.Tensor, how: str, start: Any, steps: int) -> Any:
        batches = Batches([batch], bound.holdout)
        return hypergradient(
            problem.inner_loss, problem.outer_loss, start, c, batches, rule, how, steps=steps, wrt_start=False
        )

    def loss_at(c: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = at(c, "cg(1)", reached.theta_k, 1000).outer_loss
        return found

    step = torch.zeros(5, dtype=torch.float64)
    step[2] = 1e-4
    reached = at(weights, estimator, start, 3000)  # where it is no longer far to the minima beside it
    difference = (loss_at(weights + step) - loss_at(weights - step)) / 2e-4
    torch.testing.assert_close(reached.grad_c[2], difference, rtol=1e-5, atol=1e-10)

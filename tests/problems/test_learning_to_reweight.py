"""Learning to reweight: right gradients, and the paper's weights, on which alone the network is trained."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from metaimpute import recipes
from metaimpute.problems.learning_to_reweight import LearningToReweight
from metaimpute.recipes.shipped import locate
from metaimpute.recipes.source import RecipeError
from metaimpute.testing import check_problem

from ..bound import bind
from .noisy import SMALL


def test_its_gradients_are_those_of_finite_differences() -> None:
    check_problem(LearningToReweight(), recipe="digits_learning_to_reweight", sets=SMALL)


@pytest.mark.parametrize("weight", [1.0, 3.0])
def test_a_step_is_on_rows_weighted_by_their_agreement_with_the_trusted_rows(weight: float) -> None:
    """Algorithm 1: ``w_i`` in proportion to ``max(<grad loss_i, grad C_H>, 0)``, taken at the present parameters."""
    bound = bind("supervised", "learning_to_reweight", weight=weight)
    problem, params = bound.algorithm.problem, bound.params
    leaves, before = list(params.values()), [p.detach().clone() for p in params.values()]
    slope = torch.autograd.grad(problem.supervised(params, bound.holdout), leaves)
    rows = [
        torch.autograd.grad(loss, leaves, retain_graph=True) for loss in problem.losses(params, bound.batch.labelled)
    ]
    agree = torch.stack([sum((a * b).sum() for a, b in zip(row, slope, strict=True)) for row in rows]).clamp_min(0)  # type: ignore[arg-type]
    assert 0 < int((agree > 0).sum()) < len(agree), "some rows help and some do not"
    weights = agree / agree.sum()
    metrics = bound.algorithm.step(bound.batch, bound.holdout, measure=True)
    for start, end, *of_rows in zip(before, leaves, *rows, strict=True):
        expected = start - 0.1 * sum(w * g for w, g in zip(weights, of_rows, strict=True))
        torch.testing.assert_close(end.detach(), expected, rtol=1e-9, atol=1e-12)
    assert metrics["rows_used"] == float((agree > 0).double().mean()) and "base_gradient_norm" not in metrics


def test_where_no_row_helps_nothing_is_trained() -> None:
    moved = LearningToReweight().move({"weights": torch.zeros(3)}, {"weights": torch.ones(3)})
    assert torch.equal(moved["weights"], torch.zeros(3))


def test_more_inner_steps_than_one_are_refused() -> None:
    with pytest.raises(RecipeError, match="'learning_to_reweight' is defined for 1 inner step, not 3"):
        recipes.load(locate(Path("digits_learning_to_reweight")), "sample", ("problem.inner.steps=3",))

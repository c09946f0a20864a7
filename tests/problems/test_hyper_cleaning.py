"""Hyper-cleaning: right gradients, one weight per labelled row, and the network is trained on the weighted rows."""

from __future__ import annotations

import pytest
import torch

from metaimpute.problems.hyper_cleaning import HyperCleaning
from metaimpute.testing import check_problem

from ..bound import bind
from .noisy import SMALL


@pytest.mark.parametrize("l2", [0.0, 0.1])
def test_its_gradients_are_those_of_finite_differences(l2: float) -> None:
    check_problem(HyperCleaning(l2=l2), recipe="digits_hyper_cleaning", sets=SMALL)


def test_the_hypergradient_of_a_weight_is_its_rows_agreement_with_the_trusted_rows() -> None:
    """After one step of SGD: dC_H/dlogit_i = -lr/n * sigmoid'(logit_i) * <grad loss_i, grad C_H at the end>."""
    bound = bind("supervised", "hyper_cleaning", outer_optimizer=lambda leaves: torch.optim.SGD(leaves, lr=1.0))
    algorithm, problem = bound.algorithm, bound.algorithm.problem
    estimate = algorithm.lookahead.estimate(bound.batch, bound.holdout)
    assert estimate.result is not None and estimate.found is not None
    end = {name: p.clone().requires_grad_() for name, p in estimate.result.theta_k.items()}
    slope = torch.autograd.grad(problem.supervised(end, bound.holdout), list(end.values()))
    for row in range(4):
        own = torch.autograd.grad(problem.losses(bound.params, bound.batch.labelled)[row], list(bound.params.values()))
        agreement = sum((a * b).sum() for a, b in zip(own, slope, strict=True))
        expected = -0.5 / 4 * 0.25 * agreement
        torch.testing.assert_close(estimate.found["logits"][row], expected, rtol=1e-9, atol=1e-12)


def test_rows_without_weight_are_not_trained_on() -> None:
    bound = bind("supervised", "hyper_cleaning", outer_optimizer=lambda leaves: torch.optim.SGD(leaves, lr=0.0))
    before = {name: p.detach().clone() for name, p in bound.params.items()}
    assert bound.algorithm.meta is not None
    with torch.no_grad():
        bound.algorithm.meta["logits"].fill_(-1e3)
    bound.algorithm.step(bound.batch, bound.holdout)
    assert all(torch.equal(before[name], p) for name, p in bound.params.items())

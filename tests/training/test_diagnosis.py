"""What is measured of a look-ahead, against finite differences and labels whose way to the truth is known."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from metaimpute.training.diagnosis import of_lookahead

from ..bound import bind, regression
from ..problems.test_l2i import hypergradient

pytestmark = pytest.mark.usefixtures("float64")


def measured(bound: Any, found: Any, result: Any) -> dict[str, float]:
    problem = bound.algorithm.problem
    values = of_lookahead(problem, bound.params, bound.batch, bound.holdout, found, result)
    return {name: float(value) for name, value in values.items()}


def test_the_linear_part_is_the_slope_along_the_look_ahead() -> None:
    bound = bind("mean_teacher", form="released")
    _, found, result = hypergradient(bound)

    def loss(share: float) -> float:
        point = {n: p.detach() + share * (result.theta_k[n] - p.detach()) for n, p in bound.params.items()}
        return float(bound.algorithm.problem.supervised(point, bound.holdout))

    central = (loss(1e-5) - loss(-1e-5)) / 2e-5
    assert measured(bound, found, result)["holdout_linear"] == pytest.approx(central, rel=1e-6)


def test_the_cosine_is_that_with_the_holdout_gradient() -> None:
    bound = bind("mean_teacher")
    _, _, result = hypergradient(bound)
    at = {n: p.detach().requires_grad_() for n, p in bound.params.items()}
    loss = bound.algorithm.problem.supervised(at, bound.holdout)
    slope = dict(zip(at, torch.autograd.grad(loss, list(at.values())), strict=True))
    assert measured(bound, slope, result)["cosine_holdout"] == pytest.approx(1.0)
    assert measured(bound, {n: -g for n, g in slope.items()}, result)["cosine_holdout"] == pytest.approx(-1.0)


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("values", [False, True])
def test_labels_that_descend_towards_the_truth_are_aligned(values: bool, sign: float) -> None:
    bound = bind("mean_teacher", **({"output": regression()} if values else {}))
    _, found, result = hypergradient(bound)
    labels, truth = bound.batch.imputation.labels, bound.batch.unlabelled.truth
    assert truth is not None
    true = truth if values else F.one_hot(truth, 3).to(labels.dtype)
    towards = replace(result, grad_c=sign * (labels - true))
    assert measured(bound, found, towards)["label_alignment"] == pytest.approx(sign)

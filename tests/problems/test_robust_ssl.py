"""Robust SSL: weighted BatchNorm is torch's at equal weights and blind to rows of weight zero; gradients are right."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from metaimpute import recipes
from metaimpute.problems.robust_ssl import RobustSSL
from metaimpute.problems.weighted_norm import weighted_statistics
from metaimpute.recipes.shipped import locate
from metaimpute.recipes.source import RecipeError
from metaimpute.testing import check_problem

from ..bound import bind

SMALL = ("model.width=2", "train.batch=12", "train.unlabelled_batch=8", "method.threshold=0.0", "train.threads=1")


@pytest.mark.parametrize("weighted_norm", [True, False])
def test_its_gradients_are_those_of_finite_differences(weighted_norm: bool) -> None:
    report = check_problem(RobustSSL(weighted_norm=weighted_norm), recipe="digits_robust_ssl", sets=SMALL)
    assert {"exact", "mixed", "couple"} <= {term.estimator for term in report.terms}


@pytest.mark.parametrize("shape", [(6, 3), (6, 3, 4, 4)])
def test_equal_weights_are_batch_normalisation(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    rows = torch.randn(shape, dtype=torch.float64)
    norm = (nn.BatchNorm1d if rows.ndim == 2 else nn.BatchNorm2d)(3).double()
    nn.init.normal_(norm.weight)
    with weighted_statistics(torch.full((6,), 0.3, dtype=torch.float64)):
        weighted = norm(rows)
    running = norm.running_mean.clone()  # type: ignore[union-attr]
    norm.reset_running_stats()
    torch.testing.assert_close(weighted, norm(rows))
    torch.testing.assert_close(running, norm.running_mean)


def test_rows_without_weight_change_nothing_of_the_others() -> None:
    torch.manual_seed(0)
    norm, rows = nn.BatchNorm1d(3).double(), torch.randn(6, 3, dtype=torch.float64)
    far = torch.cat([rows, 1e3 + torch.randn(4, 3, dtype=torch.float64)])
    with weighted_statistics(torch.tensor([1.0] * 6 + [0.0] * 4, dtype=torch.float64)):
        among = norm(far)[:6]
    torch.testing.assert_close(among, nn.BatchNorm1d(3).double()(rows))


def test_in_evaluation_mode_the_running_statistics_are_used() -> None:
    norm, rows = nn.BatchNorm1d(3).eval(), torch.randn(6, 3)
    with weighted_statistics(torch.rand(6)):
        torch.testing.assert_close(norm(rows), rows / (1 + 1e-5) ** 0.5)


def test_training_carries_weighted_statistics_into_the_network() -> None:
    bound = bind(
        "mean_teacher", "robust_ssl", norm=True, outer_optimizer=lambda leaves: torch.optim.SGD(leaves, lr=1.0)
    )
    before = bound.module[1].running_mean.clone()  # type: ignore[union-attr,index]
    bound.algorithm.step(bound.batch, bound.holdout)
    assert not torch.equal(before, bound.module[1].running_mean)  # type: ignore[union-attr,index]


@pytest.mark.parametrize("method", ["mean_teacher", "mixmatch"])
def test_with_weights_of_one_it_is_the_loss_of_one_pass_of_all_rows(method: str) -> None:
    bound = bind(method, "robust_ssl", norm=True)
    problem, batch = bound.algorithm.problem, bound.algorithm.prepare(bound.batch)
    ones = torch.ones(5, dtype=torch.float64)
    bound.algorithm.method.__class__.joint_forward, before = True, bound.algorithm.method.joint_forward
    try:
        expected = bound.algorithm.method.loss(bound.algorithm.model, bound.params, batch)
    finally:
        bound.algorithm.method.__class__.joint_forward = before
    torch.testing.assert_close(problem.inner_loss(bound.params, ones, batch), expected)


def test_a_method_with_a_pass_of_its_own_is_refused() -> None:
    with pytest.raises(
        RecipeError, match="robust_ssl takes one pass .*, and 'vat' has one of its own for some of them"
    ):
        recipes.load(locate(Path("digits_robust_ssl")), "sample", ("method={name: vat}",))

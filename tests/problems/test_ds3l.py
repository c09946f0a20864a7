"""DS3L: right gradients; a weight of one everywhere is the base method's loss."""

from __future__ import annotations

import pytest
import torch

from metaimpute.problems.ds3l import DS3L
from metaimpute.testing import check_problem

from ..bound import bind

SMALL = (
    "model={name: mlp, width: 8}",
    "train.batch=12",
    "train.unlabelled_batch=16",
    "method.threshold=0.0",
    "train.threads=1",
)


def test_its_gradients_are_those_of_finite_differences() -> None:
    check_problem(DS3L(width=5), recipe="digits_ds3l", sets=SMALL)


@pytest.mark.parametrize("method", ["mean_teacher", "pseudo_label", "mixmatch"])
def test_with_weights_of_one_its_loss_is_the_base_methods(method: str) -> None:
    bound = bind(method, "ds3l")
    algorithm, batch = bound.algorithm, bound.algorithm.prepare(bound.batch)
    assert algorithm.meta is not None
    ones = {name: torch.zeros_like(value) for name, value in algorithm.meta.items()} | {
        "out.bias": torch.full((1,), 1e3, dtype=torch.float64)
    }
    found = algorithm.problem.inner_loss(bound.params, ones, batch)
    torch.testing.assert_close(found, algorithm.method.loss(algorithm.model, bound.params, batch))


@pytest.mark.parametrize("method", ["mean_teacher", "mixmatch"])
def test_so_is_that_of_a_weight_for_every_row(method: str) -> None:
    bound = bind(method, "unlabelled_weights")
    batch = bound.algorithm.prepare(bound.batch)
    found = bound.algorithm.problem.inner_loss(bound.params, torch.ones(5, dtype=torch.float64), batch)
    torch.testing.assert_close(found, bound.algorithm.method.loss(bound.algorithm.model, bound.params, batch))

"""Meta-Weight-Net: right gradients, and weights that are a function of the losses without a gradient to them."""

from __future__ import annotations

import pytest
import torch

from metaimpute.problems.functions import init_function, weights_of_losses
from metaimpute.problems.meta_weight_net import MetaWeightNet
from metaimpute.testing import check_problem

from .noisy import SMALL


@pytest.mark.parametrize("normalize", [True, False])
def test_its_gradients_are_those_of_finite_differences(normalize: bool) -> None:
    check_problem(MetaWeightNet(width=5, normalize=normalize), recipe="digits_meta_weight_net", sets=SMALL)


def test_weights_are_a_function_of_the_losses_alone() -> None:
    meta = init_function(1, 4)
    losses = torch.tensor([0.3, 0.7], requires_grad=True)
    one, two = weights_of_losses(meta, losses), weights_of_losses(meta, losses.flip(0))
    assert torch.equal(one, two.flip(0)) and bool(((one > 0) & (one < 1)).all()) and not one.requires_grad

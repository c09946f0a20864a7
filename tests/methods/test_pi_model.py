"""Pi-model on a case computed by hand, and what makes its two passes differ."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from metaimpute.batches import Unlabelled
from metaimpute.batches.motion import LabelMotion
from metaimpute.batches.outputs import Values
from metaimpute.methods import methods

from ..bound import bind
from . import by_hand as hand


def test_loss_and_gradient_by_hand() -> None:
    """The weak view's pass is a constant: differentiating both passes would give another slope."""
    labels = [hand.softmax(hand.times(hand.SCALE, row)) for row in hand.WEAK]

    def expected(scale: complex) -> complex:
        known = [
            hand.cross_entropy(hand.times(scale, x), hand.one_hot(t))
            for x, t in zip(hand.LABELLED, hand.TARGETS, strict=True)
        ]
        pairs = [hand.brier(hand.times(scale, x), z) for x, z in zip(hand.STRONG, labels, strict=True)]
        return hand.mean(known) + 20.0 * hand.mean(pairs)

    method, params, batch = hand.case("pi_model")
    assert not batch.imputation.labels.requires_grad
    assert hand.loss_and_slope(method, params, batch) == pytest.approx(hand.value_and_slope(expected), rel=1e-13)


def test_weight_rises_linearly_over_two_fifths_of_training() -> None:
    method = methods.get("pi_model")()
    assert [method.weight_at(p) for p in (0.0, 0.1, 0.4, 1.0)] == [0.0, 5.0, 20.0, 20.0]


@pytest.mark.parametrize("dropout", [False, True])
def test_the_two_passes_draw_noise_of_their_own(dropout: bool) -> None:
    """On one and the same view the passes agree exactly, unless dropout tells them apart."""
    losses = []
    for weight in (0.0, 10.0):
        bound = bind("pi_model", "none", method_options={"weight": weight})
        bound.batch.unlabelled.strong.copy_(bound.batch.unlabelled.weak)
        if dropout:
            bound.module.insert(1, nn.Dropout(0.5))  # type: ignore[operator]
        losses.append(float(bound.algorithm.step(bound.batch, None)["loss"]))
    assert losses[1] > losses[0] + 1e-3 if dropout else losses[1] == losses[0]


def test_values_are_carried_to_the_students_view() -> None:
    """Landmarks predicted on the weak view move with the face, here by a flip and a shift."""
    method = methods.get("pi_model")().bind(Values(2))
    motion = LabelMotion(torch.diag_embed(torch.tensor([[-1.0, 1.0]] * 3)), torch.tensor([[1.0, 0.5]] * 3))
    weak = torch.tensor([[2.0, 0.0], [0.1, 0.0], [0.0, 4.0]])
    unlabelled = Unlabelled(weak, weak, torch.arange(3), motion=motion)
    found = method.impute(hand.network, {"scale": torch.tensor(2.0)}, unlabelled, {})
    torch.testing.assert_close(found.labels, torch.stack([1.0 - 2 * weak[:, 0], 0.5 + 2 * weak[:, 1]], 1))
    raw = torch.tensor([[1.0, 1.0]] * 3)
    torch.testing.assert_close(method.consistency(raw, found.labels), (raw - found.labels).square().mean(1))

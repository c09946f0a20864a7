"""MixUp on a case computed by hand, and its random choices."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from metaimpute.batches.outputs import Landmarks, Values
from metaimpute.methods import MethodError, methods
from metaimpute.methods.mixup import Mixing, draw_shares

from ..bound import bind
from . import by_hand as hand

PARTNERS, SHARES = [1, 0, 4, 2, 3], [0.9, 0.7, 0.6, 1.0, 0.8]


def drawn() -> Mixing:
    return hand.mixing(PARTNERS, SHARES)


def mixed(rows: list[Any]) -> list[list[complex]]:
    return hand.mixed(rows, PARTNERS, SHARES)


def test_loss_and_gradient_by_hand() -> None:
    labels = [hand.softmax(hand.times(hand.SCALE, row)) for row in hand.WEAK]
    inputs = mixed([*hand.LABELLED, *hand.WEAK])
    targets = mixed([*map(hand.one_hot, hand.TARGETS), *labels])

    def expected(scale: complex) -> complex:
        each = [hand.cross_entropy(hand.times(scale, x), z) for x, z in zip(inputs, targets, strict=True)]
        return hand.mean(each[:2]) + 3.0 * hand.mean(each[2:])

    method, params, batch = hand.case("mixup", drawn=drawn(), weight=3.0)
    assert hand.loss_and_slope(method, params, batch) == pytest.approx(hand.value_and_slope(expected), rel=1e-13)


def test_imputed_labels_stay_those_of_the_examples_themselves() -> None:
    """Diagnostics compare labels with the truth of example i; mixed ones would be of i and its partner."""
    _, _, batch = hand.case("mixup", drawn=drawn())
    torch.testing.assert_close(batch.imputation.labels, (hand.SCALE * batch.unlabelled.weak).softmax(-1))
    assert batch.imputation.weights.tolist() == [1.0, 1.0, 1.0]


def test_partners_are_found_within_the_labelled_and_within_the_unlabelled_rows() -> None:
    method = methods.get("mixup")()
    seen = set()
    for seed in range(50):
        partner = method.draw_partners(3, 4, torch.Generator().manual_seed(seed))  # type: ignore[attr-defined]
        assert sorted(partner[:3].tolist()) == [0, 1, 2] and sorted(partner[3:].tolist()) == [3, 4, 5, 6]
        seen.add(tuple(partner.tolist()))
    assert len(seen) > 25


def test_shares_are_the_larger_part_of_a_beta_draw_and_one_for_each_row() -> None:
    """E[l (1 - l)] = alpha / (2 (2 alpha + 1)) for Beta(alpha, alpha), whichever part is called l."""
    for alpha in (0.5, 0.75, 4.0):
        share = draw_shares(alpha, 40_000, torch.Generator().manual_seed(1))
        assert float(share.min()) >= 0.5 and float(share.max()) <= 1.0
        assert float((share * (1 - share)).mean()) == pytest.approx(alpha / (2 * (2 * alpha + 1)), rel=0.02)
        assert len(share.unique()) > 30_000


@pytest.mark.parametrize("name", ["mixup", "mixmatch"])
def test_choices_are_made_once_by_seed_and_step(name: str) -> None:
    bound = bind(name)
    first, again = bound.algorithm.prepare(bound.batch), bound.algorithm.prepare(bound.batch)
    assert all(torch.equal(a, b) for a, b in zip(first.drawn, again.drawn, strict=True))
    bound.batch = type(bound.batch)(bound.batch.labelled, bound.batch.unlabelled, 0.7, 8)
    assert not torch.equal(first.drawn.share, bound.algorithm.prepare(bound.batch).drawn.share)


@pytest.mark.parametrize("schedule", ["algorithm1", "fused"])
@pytest.mark.parametrize("name", ["mixup", "mixmatch"])
def test_base_step_and_lookahead_mix_alike(name: str, schedule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    bound = bind(name, "l2i", "exact", schedule=schedule, steps=2)
    method, rows = bound.algorithm.method, []
    inputs = method.inputs
    monkeypatch.setattr(method, "inputs", lambda batch: rows.append(inputs(batch)) or rows[-1])
    bound.algorithm.step(bound.batch, bound.holdout)
    assert len(rows) >= (3 if schedule == "algorithm1" else 2)
    for labelled, unlabelled in rows:
        assert torch.equal(labelled, rows[0][0]) and torch.equal(unlabelled, rows[0][1])


@pytest.mark.parametrize("name", ["mixup", "mixmatch"])
def test_landmarks_are_refused(name: str) -> None:
    for output in (Values(2), Landmarks(10)):
        with pytest.raises(MethodError, match=f"^{name} .*mixing two faces doubles the landmarks"):
            methods.get(name)().bind(output)

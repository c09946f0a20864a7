"""MixMatch on a case computed by hand: guesses, sharpening, mixing of all rows, both losses."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from metaimpute.batches import Imputation, Unlabelled
from metaimpute.batches.outputs import Classes
from metaimpute.methods import methods
from metaimpute.methods.mixmatch import sharpen
from metaimpute.methods.mixup import Mixing

from ..bound import bind
from . import by_hand as hand

PARTNERS, SHARES = [5, 2, 0, 7, 4, 1, 3, 6], [0.9, 0.7, 0.6, 1.0, 0.8, 0.55, 0.75, 0.95]


def drawn() -> Mixing:
    return hand.mixing(PARTNERS, SHARES)


def mixed(rows: list[Any]) -> list[list[complex]]:
    return hand.mixed(rows, PARTNERS, SHARES)


def guesses(scale: complex) -> list[list[complex]]:
    found = []
    for weak, strong in zip(hand.WEAK, hand.STRONG, strict=True):
        views = hand.softmax(hand.times(scale, weak)), hand.softmax(hand.times(scale, strong))
        squares = [((a + b) / 2) ** 2 for a, b in zip(*views, strict=True)]
        found.append([v / sum(squares) for v in squares])
    return found


def losses(scale: complex, labels: list[list[complex]]) -> tuple[complex, complex]:
    """Cross-entropy over the 2 mixed labelled rows, Brier score over the 2 x 3 mixed unlabelled ones."""
    inputs = mixed([*hand.LABELLED, *hand.WEAK, *hand.STRONG])
    targets = mixed([*map(hand.one_hot, hand.TARGETS), *labels, *labels])
    known = [hand.cross_entropy(hand.times(scale, x), z) for x, z in zip(inputs[:2], targets[:2], strict=True)]
    rows = [hand.brier(hand.times(scale, x), z) for x, z in zip(inputs[2:], targets[2:], strict=True)]
    return hand.mean(known), hand.mean(rows)


def test_loss_and_gradient_by_hand() -> None:
    labels = guesses(hand.SCALE)

    def expected(scale: complex) -> complex:
        known, rows = losses(scale, labels)
        return known + 75.0 * rows

    method, params, batch = hand.case("mixmatch", drawn=drawn())
    torch.testing.assert_close(batch.imputation.labels, torch.tensor(labels).real.double(), rtol=1e-6, atol=0)
    assert hand.loss_and_slope(method, params, batch) == pytest.approx(hand.value_and_slope(expected), rel=1e-13)


@pytest.mark.parametrize("part", ["labelled", "unlabelled"])
def test_gradient_through_the_labels_reaches_both_losses(part: str) -> None:
    """With psi's graph kept, each loss alone depends on the network through its mixed targets as well."""
    method, params, batch = hand.case("mixmatch", drawn=drawn())
    labels = method.psi(hand.network, params, batch.unlabelled)
    known, rows = method.targets(Imputation(labels, batch.imputation.weights), batch)
    raw = [r.detach() for r in method.forward(lambda inputs: hand.network(params, inputs), batch)]
    if part == "labelled":
        loss = method.labelled_loss(raw[0], known, 1.0)
    else:
        loss = method.unlabelled_loss(raw[1], rows.labels, batch.with_imputed(rows))
    (slope,) = torch.autograd.grad(loss, params["scale"])
    index = ["labelled", "unlabelled"].index(part)
    _, expected = hand.value_and_slope(lambda scale: losses(hand.SCALE, guesses(scale))[index])
    assert abs(expected) > 1e-3
    assert float(slope) == pytest.approx(expected, rel=1e-12)


def test_the_student_receives_a_gradient_from_each_loss() -> None:
    method, params, batch = hand.case("mixmatch", drawn=drawn())
    raw = method.forward(lambda inputs: hand.network(params, inputs), batch)
    known, rows = method.targets(batch.imputation, batch)
    assert not known.requires_grad and not rows.labels.requires_grad
    labels = guesses(hand.SCALE)
    for index, loss in enumerate(
        [
            method.labelled_loss(raw[0], known, 1.0),
            method.unlabelled_loss(raw[1], rows.labels, batch.with_imputed(rows)),
        ]
    ):
        (slope,) = torch.autograd.grad(loss, params["scale"], retain_graph=True)
        _, expected = hand.value_and_slope(lambda scale, i=index: losses(scale, labels)[i])  # type: ignore[misc]
        assert float(slope) == pytest.approx(expected, rel=1e-12) and abs(expected) > 1e-3


def test_partners_are_found_among_all_rows() -> None:
    method = methods.get("mixmatch")()
    crossing = 0
    for seed in range(20):
        partner = method.draw_partners(3, 8, torch.Generator().manual_seed(seed))  # type: ignore[attr-defined]
        assert sorted(partner.tolist()) == list(range(11))
        crossing += int((partner[:3] >= 3).sum())
    assert crossing > 20


@pytest.mark.parametrize("augmentations", [1, 2, 4])
def test_guesses_and_rows_count_every_view(augmentations: int) -> None:
    method = methods.get("mixmatch")(augmentations=augmentations, temperature=1.0).bind(Classes(3))
    assert method.views == augmentations
    bound = bind("mixmatch", "none", method_options={"augmentations": augmentations})
    views = [bound.batch.unlabelled.weak, bound.batch.unlabelled.strong, *torch.randn(2, 5, 4, dtype=torch.float64)]
    unlabelled = replace(bound.batch.unlabelled, more=tuple(views[2:augmentations]))
    model = bound.algorithm.model
    expected = torch.stack([model(bound.params, v).softmax(-1) for v in views[:augmentations]]).mean(0)
    torch.testing.assert_close(method.psi(model, bound.params, unlabelled), expected)
    batch = bound.algorithm.prepare(replace(bound.batch, unlabelled=unlabelled))
    known, rows = method.targets(batch.imputation, batch)
    assert known.shape == (4, 3) and rows.labels.shape == (5 * augmentations, 3)
    assert rows.weights.shape == (5 * augmentations,), "one weight per row, not a matrix"
    for targets, inputs in zip((known, rows.labels), method.inputs(batch), strict=True):
        assert len(targets) == len(inputs)


def test_weight_reaches_75_after_16_of_1024_epochs() -> None:
    method = methods.get("mixmatch")()
    assert [method.weight_at(e / 1024) for e in (0, 4, 16, 1024)] == [0.0, 18.75, 75.0, 75.0]


def test_sharpening_is_finite_at_labels_of_zero() -> None:
    labels = torch.tensor([[1.0, 0.0, 0.0], [0.5, 0.3, 0.2]], requires_grad=True)
    for temperature in (0.05, 0.5, 1.0, 2.0):
        found = sharpen(labels, temperature)
        power = labels.detach() ** (1 / temperature)
        torch.testing.assert_close(found.detach(), power / power.sum(-1, keepdim=True))
        (slope,) = torch.autograd.grad(found[:, 0].sum(), labels)
        assert bool(torch.isfinite(slope).all())


def test_imputed_accuracy_is_that_of_the_guesses() -> None:
    bound = bind("mixmatch", "l2i", "mixed")
    batch = bound.algorithm.prepare(bound.batch)
    right = (batch.imputation.labels.argmax(-1) == batch.unlabelled.truth).double().mean()
    found = bound.algorithm.step(bound.batch, bound.holdout, measure=True)
    assert float(found["imputed_accuracy"]) == pytest.approx(float(right))
    assert float(found["mask_rate"]) == 1.0


def test_labelled_and_unlabelled_rows_share_one_batchnorm_pass() -> None:
    bound = bind("mixmatch", "none", norm=True)
    batch = bound.algorithm.prepare(bound.batch)
    hidden = bound.module[0](torch.cat(bound.algorithm.method.inputs(batch)))  # type: ignore[index]
    bound.algorithm.step(bound.batch, None)
    norm = bound.module[1]  # type: ignore[index]
    assert int(norm.num_batches_tracked) == 1
    torch.testing.assert_close(norm.running_mean, 0.1 * hidden.mean(0).detach())
    torch.testing.assert_close(norm.running_var, 0.9 + 0.1 * hidden.var(0).detach())


def test_a_hand_made_batch_without_motion_or_further_views_is_enough() -> None:
    unlabelled = Unlabelled(torch.zeros(2, 4), torch.ones(2, 4), torch.arange(2))
    assert len(methods.get("mixmatch")().copies(unlabelled)) == 2  # type: ignore[attr-defined]

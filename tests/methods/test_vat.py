"""VAT: the perturbation against closed forms and the published finite difference; losses by hand; BatchNorm left alone."""

from __future__ import annotations

import cmath

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metaimpute.batches import Batch, Labelled, Unlabelled
from metaimpute.batches.outputs import Classes, Values
from metaimpute.engine import FunctionalModel
from metaimpute.methods import MethodError, methods
from metaimpute.methods.vat import curvature_product, unit_rows

from ..bound import bind
from . import by_hand as hand


def test_loss_and_gradient_by_hand() -> None:
    """KL to the constant clean prediction at a constant perturbation, and the entropy of the clean prediction."""
    method, params, batch = hand.case("vat", epsilon=0.5)
    labels = [hand.softmax(hand.times(hand.SCALE, row)) for row in hand.WEAK]
    perturbed = batch.unlabelled.strong.tolist()

    def expected(scale: complex) -> complex:
        known = [
            hand.cross_entropy(hand.times(scale, x), hand.one_hot(t))
            for x, t in zip(hand.LABELLED, hand.TARGETS, strict=True)
        ]
        kl = [
            hand.cross_entropy(hand.times(scale, x), z) + sum(v * cmath.log(v) for v in z)
            for x, z in zip(perturbed, labels, strict=True)
        ]
        clean = [hand.times(scale, row) for row in hand.WEAK]
        entropy = hand.mean([hand.cross_entropy(row, hand.softmax(row)) for row in clean])
        return hand.mean(known) + 0.3 * hand.mean(kl) + 0.06 * entropy

    assert not batch.unlabelled.strong.requires_grad and not batch.imputation.labels.requires_grad
    assert hand.loss_and_slope(method, params, batch) == pytest.approx(hand.value_and_slope(expected), rel=1e-12)


# the perturbation --------------------------------------------------------------------------------------------------------


def linear(weight: Tensor, inputs: Tensor) -> Tensor:
    return inputs @ weight.T


def fisher(weight: Tensor, x: Tensor) -> Tensor:
    """Hessian of KL(p(x) || p(x + r)) in r at 0 for logits ``W x``: ``W^T (diag p - p p^T) W``."""
    p = (weight @ x).softmax(-1)
    return weight.T @ (torch.diag(p) - torch.outer(p, p)) @ weight


@pytest.mark.parametrize("iterations", [1, 2])
def test_perturbation_of_a_linear_model_is_the_closed_form(iterations: int) -> None:
    weight, clean = torch.randn(3, 4, dtype=torch.float64), torch.randn(5, 4, dtype=torch.float64)
    found = perturbation(weight, clean, epsilon=2.0, power_iterations=iterations)
    drawn = torch.randn(clean.shape, generator=torch.Generator().manual_seed(3)).double()
    for x, d, r in zip(clean, drawn, found, strict=True):
        for _ in range(iterations):
            d = fisher(weight, x) @ d
        torch.testing.assert_close(r, 2.0 * d / d.norm(), rtol=1e-10, atol=1e-12)


def perturbation(weight: Tensor, clean: Tensor, **options: float) -> Tensor:
    method = methods.get("vat")(**options).bind(Classes(3))
    labelled = Labelled(clean[:2], torch.tensor([0, 1]), torch.arange(2))
    batch = Batch(labelled, Unlabelled(clean, clean, torch.arange(len(clean))))
    rng = torch.Generator().manual_seed(3)
    return method.prepare(linear, weight.requires_grad_(), batch, rng).unlabelled.strong - clean


def test_every_example_is_moved_by_epsilon_of_its_own() -> None:
    """Normalised per example; over the batch or per pixel the lengths would differ."""
    weight, clean = torch.randn(3, 4, dtype=torch.float64), torch.randn(6, 4, dtype=torch.float64)
    clean = clean * torch.tensor([1e-3, 0.1, 1, 2, 3, 5], dtype=torch.float64)[:, None]
    lengths = perturbation(weight, clean, epsilon=6.0).norm(dim=1)
    torch.testing.assert_close(lengths, torch.full((6,), 6.0, dtype=torch.float64))


def test_power_iterations_find_the_direction_of_greatest_change() -> None:
    weight, clean = torch.randn(3, 4, dtype=torch.float64), torch.randn(5, 4, dtype=torch.float64)
    found = unit_rows(perturbation(weight, clean, power_iterations=60))
    for x, r in zip(clean, found, strict=True):
        top = torch.linalg.eigh(fisher(weight.detach(), x)).eigenvectors[:, -1]
        assert abs(float(top @ r)) == pytest.approx(1.0, abs=1e-6)


def finite_difference(call: nn.Module, inputs: Tensor, direction: Tensor, xi: float) -> Tensor:
    """As published: the gradient of KL(p(x) || p(x + xi d)) with respect to ``xi d``."""
    p = call(inputs).softmax(-1).detach()
    r = (xi * direction).requires_grad_()
    kl = F.kl_div(call(inputs + r).log_softmax(-1), p, reduction="sum")
    return torch.autograd.grad(kl, r)[0]


def convolutional() -> nn.Sequential:
    torch.manual_seed(1)
    layers = nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.LeakyReLU(0.1), nn.Flatten(), nn.Linear(6 * 36, 5)
    return nn.Sequential(*layers)


def cosines(left: Tensor, right: Tensor) -> Tensor:
    return (unit_rows(left.double()) * unit_rows(right.double())).flatten(1).sum(1)


def test_exact_curvature_is_the_limit_of_the_published_finite_difference() -> None:
    module = convolutional().double()
    inputs, direction = torch.randn(2, 8, 1, 8, 8, dtype=torch.float64)
    direction = unit_rows(direction)
    exact = curvature_product(module, inputs, direction)
    published = finite_difference(module, inputs, direction, 1e-6)
    assert float(cosines(exact, published).min()) > 1 - 1e-9
    torch.testing.assert_close(published / 1e-6, exact, rtol=1e-3, atol=1e-6)


def test_single_precision_keeps_the_direction_that_the_finite_difference_loses() -> None:
    module, inputs, direction = convolutional(), torch.randn(8, 1, 8, 8), unit_rows(torch.randn(8, 1, 8, 8))
    found, lost = curvature_product(module, inputs, direction), finite_difference(module, inputs, direction, 1e-6)
    true = curvature_product(module.double(), inputs.double(), direction.double())
    assert float(cosines(found, true).min()) > 1 - 1e-9
    assert float(cosines(lost, true).mean()) < 0.9


def test_a_saturated_prediction_is_not_moved_and_gives_no_nan() -> None:
    weight = torch.tensor([[1e4, 0.0], [0.0, 0.0], [0.0, 1.0]])
    found = perturbation(weight, torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    assert torch.equal(found[0], torch.zeros(2)) and float(found[1].norm()) == pytest.approx(6.0)


def test_small_curvatures_do_not_underflow() -> None:
    rows = torch.tensor([[3e-30, 4e-30], [0.0, 0.0]])
    torch.testing.assert_close(unit_rows(rows), torch.tensor([[0.6, 0.8], [0.0, 0.0]]))


def test_dropout_noise_is_one_mask_in_both_products() -> None:
    """Under one mask the map is linear, and the closed form of the masked weights holds."""
    weight = torch.randn(3, 4, dtype=torch.float64)
    x, d = torch.randn(2, 1, 4, dtype=torch.float64)
    torch.manual_seed(5)
    mask = F.dropout(torch.ones(1, 4, dtype=torch.float64), 0.5)
    torch.manual_seed(5)
    found = curvature_product(lambda inputs: F.dropout(inputs, 0.5) @ weight.T, x, d)
    torch.testing.assert_close(found[0], fisher(weight * mask, x[0]) @ d[0])


# BatchNorm, entropy, refusals --------------------------------------------------------------------------------------------


def test_finding_the_perturbation_leaves_running_statistics_alone() -> None:
    bound = bind("vat", "none", norm=True)
    before = {n: b.clone() for n, b in bound.algorithm.model.buffers.items()}
    batch = bound.algorithm.prepare(bound.batch)
    assert all(torch.equal(before[n], b) for n, b in bound.algorithm.model.buffers.items())
    assert not torch.equal(batch.unlabelled.strong, bound.batch.unlabelled.weak)
    assert not torch.equal(batch.unlabelled.strong, bound.batch.unlabelled.strong)


@pytest.mark.parametrize("schedule", ["algorithm1", "fused"])
@pytest.mark.parametrize("problem", ["none", "l2i"])
@pytest.mark.parametrize("entropy", [0.0, 0.06])
def test_running_statistics_are_of_clean_examples_alone(problem: str, schedule: str, entropy: float) -> None:
    bound = bind("vat", problem, "mixed", norm=True, schedule=schedule, method_options={"entropy": entropy})
    rows = [bound.batch.labelled.inputs, bound.batch.unlabelled.weak]
    hidden = bound.module[0](torch.cat(rows if entropy else rows[:1]))  # type: ignore[index]
    bound.algorithm.step(bound.batch, bound.holdout)
    norm = bound.module[1]  # type: ignore[index]
    assert int(norm.num_batches_tracked) == 1
    torch.testing.assert_close(norm.running_mean, 0.1 * hidden.mean(0).detach())


def test_the_entropy_belongs_to_the_supervised_part() -> None:
    """Present in ``inner: all`` at any weight, absent from ``inner: unlabelled``."""
    values = {}
    for inner in ("all", "unlabelled"):
        for entropy in (0.0, 0.5):
            bound = bind("vat", inner=inner, method_options={"entropy": entropy})
            batch = bound.algorithm.prepare(bound.batch)
            values[inner, entropy] = float(
                bound.algorithm.lookahead.inner(bound.params, batch.imputation.labels, batch)
            )
            clean = bound.algorithm.model(bound.params, batch.unlabelled.weak)
    p = clean.softmax(-1)
    expected = 0.5 * float(-(p * p.log()).sum(-1).mean())
    assert values["all", 0.5] - values["all", 0.0] == pytest.approx(expected, rel=1e-10)
    assert values["unlabelled", 0.5] == values["unlabelled", 0.0]


def test_the_lookahead_sees_the_base_steps_perturbation() -> None:
    """Found once: the inner loss at moved parameters is evaluated at the same x + r."""
    bound = bind("vat", "l2i", "exact", inner="unlabelled")
    batch = bound.algorithm.prepare(bound.batch)
    moved = {n: p.detach() + 0.1 for n, p in bound.params.items()}
    raw = bound.algorithm.model(moved, batch.unlabelled.strong)
    z = batch.imputation.labels
    kl = (z * (z.log() - raw.log_softmax(-1))).sum(-1).mean()
    assert float(bound.algorithm.lookahead.inner(moved, z, batch)) == pytest.approx(0.3 * float(kl), rel=1e-10)


def test_a_functional_model_in_single_precision_runs() -> None:
    module = convolutional().train()
    model = FunctionalModel(module)
    clean = torch.randn(4, 1, 8, 8)
    batch = Batch(Labelled(clean, torch.arange(4), torch.arange(4)), Unlabelled(clean, clean, torch.arange(4)))
    with torch.no_grad():
        found = methods.get("vat")().bind(Classes(5)).prepare(model, model.params, batch, torch.Generator())
    torch.testing.assert_close((found.unlabelled.strong - clean).flatten(1).norm(dim=1), torch.full((4,), 6.0))


def test_weight_rises_over_two_fifths_of_training_and_the_entropy_does_not() -> None:
    method = methods.get("vat")().bind(Classes(2))
    assert [method.weight_at(p) for p in (0.0, 0.2, 0.4, 1.0)] == pytest.approx([0.0, 0.15, 0.3, 0.3])
    raw = torch.tensor([[1.0, 0.0], [2.0, 0.0]])
    assert float(method.labelled_loss(raw, torch.tensor([0]), 0.0)) > float(
        method.labelled_loss(raw[:1], torch.tensor([0]), 0.0)
    )


def test_regression_is_refused() -> None:
    with pytest.raises(MethodError, match="vat compares class distributions"):
        methods.get("vat")().bind(Values(2))

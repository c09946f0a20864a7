"""Each method on a case small enough to compute by hand: labels, masks, loss values, gradients, schedules, traps."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from metaimpute.batches import Batch, Labelled, Unlabelled
from metaimpute.batches.outputs import Classes, Values
from metaimpute.methods import Method, MethodError, methods
from metaimpute.methods.base import concatenate, ema_decay, kl_divergence

LOGITS_WEAK = torch.tensor([[2.0, 0.0], [0.1, 0.0], [0.0, 4.0]])
LOGITS_STRONG = torch.tensor([[0.5, 0.0], [0.0, 1.0], [1.0, 0.0]])
LOGITS_LABELLED = torch.tensor([[1.0, 0.0], [0.0, 0.5]])
TARGETS = torch.tensor([0, 0])


def predict(params: dict[str, Tensor], inputs: Tensor) -> Tensor:
    """A network that returns its input, scaled by its one parameter."""
    return params["scale"] * inputs


def case(progress: float = 1.0) -> Batch:
    return Batch(
        Labelled(LOGITS_LABELLED, TARGETS, torch.arange(2)),
        Unlabelled(LOGITS_WEAK, LOGITS_STRONG, torch.arange(3)),
        progress,
    )


def prepared(
    name: str, progress: float = 1.0, **options: Any
) -> tuple[Method, dict[str, Tensor], Batch, dict[str, Any]]:
    method = methods.get(name)(**options).bind(Classes(2))
    params = {"scale": torch.tensor(1.0, requires_grad=True)}
    state = method.init_state(params)
    with torch.no_grad():
        batch = method.prepare(predict, params, case(progress), torch.Generator().manual_seed(0))
        return method, params, batch.with_imputed(method.impute(predict, params, batch.unlabelled, state)), state


def cross_entropy(logits: Tensor, target: int) -> float:
    values = [math.exp(float(v)) for v in logits]
    return -math.log(values[target] / sum(values))


def softmax(logits: Tensor) -> list[float]:
    values = [math.exp(float(v)) for v in logits]
    return [v / sum(values) for v in values]


SUPERVISED = (cross_entropy(LOGITS_LABELLED[0], 0) + cross_entropy(LOGITS_LABELLED[1], 0)) / 2


def test_supervised_is_mean_cross_entropy_alone() -> None:
    method, params, batch, _ = prepared("supervised")
    assert float(method.loss(predict, params, batch)) == pytest.approx(SUPERVISED, rel=1e-6)
    assert method.weight_at(0.5) == 0.0 and method.lookahead_weight(0.5) == 1.0


def test_pseudo_label_masks_each_example_on_its_own() -> None:
    """Of three predictions one exceeds the threshold; a [B, 1] mask against [B] losses would average all three."""
    method, params, batch, _ = prepared("pseudo_label", threshold=0.95, weight=2.0)
    assert batch.imputation.weights.tolist() == [0.0, 0.0, 1.0]
    assert batch.imputation.labels.tolist() == [[1, 0], [1, 0], [0, 1]]
    expected = SUPERVISED + 2.0 * cross_entropy(LOGITS_STRONG[2], 1) / 3
    assert float(method.loss(predict, params, batch)) == pytest.approx(expected, rel=1e-6)


def test_fixmatch_trains_the_strong_view_on_confident_weak_labels() -> None:
    method, params, batch, _ = prepared("fixmatch", threshold=0.85)
    assert method.strong == "strong" and method.weak == "weak" and method.joint_forward
    assert batch.imputation.weights.tolist() == [1.0, 0.0, 1.0]
    expected = SUPERVISED + (cross_entropy(LOGITS_STRONG[0], 0) + cross_entropy(LOGITS_STRONG[2], 1)) / 3
    assert float(method.loss(predict, params, batch)) == pytest.approx(expected, rel=1e-6)


def test_mean_teacher_compares_student_with_teacher_and_trains_the_student() -> None:
    method, params, batch, state = prepared("mean_teacher", weight=10.0, ramp=0.0)
    state = {"teacher": {"scale": torch.tensor(0.5)}}
    batch = batch.with_imputed(method.impute(predict, params, batch.unlabelled, state))
    teacher = [softmax(0.5 * row) for row in LOGITS_WEAK]
    student = [softmax(row) for row in LOGITS_STRONG]
    squared = sum((a - b) ** 2 for t, s in zip(teacher, student, strict=True) for a, b in zip(t, s, strict=True)) / 6
    loss = method.loss(predict, params, batch)
    assert float(loss) == pytest.approx(SUPERVISED + 10.0 * squared, rel=1e-5)
    (slope,) = torch.autograd.grad(
        10.0 * method.unlabelled_loss(predict(params, LOGITS_STRONG), batch.imputation.labels, batch), params["scale"]
    )
    assert abs(float(slope)) > 1e-3, "the consistency loss must reach the student"
    assert not batch.imputation.labels.requires_grad


def test_the_teacher_receives_no_gradient_and_follows_by_warmed_up_average() -> None:
    method, params, batch, state = prepared("mean_teacher", decay=0.9)
    assert state["teacher"]["scale"] is not params["scale"]
    current = 1.0
    for step, value in enumerate([3.0, 5.0, -1.0], start=1):
        params["scale"] = torch.tensor(value, requires_grad=True)
        state = method.update_state(state, params, step)
        decay = min(1 - 1 / (step + 1), 0.9)
        current = decay * current + (1 - decay) * value
        assert float(state["teacher"]["scale"]) == pytest.approx(current)
        assert not state["teacher"]["scale"].requires_grad


def test_uda_is_kl_from_original_to_augmented() -> None:
    method, params, batch, _ = prepared("uda", tsa="none", temperature=0.5, threshold=0.8)
    labels = [softmax(2 * row) for row in LOGITS_WEAK]
    assert batch.imputation.weights.tolist() == [1.0, 0.0, 1.0]
    kl = [
        sum(z * (math.log(z) - math.log(p)) for z, p in zip(l, softmax(s), strict=True))
        for l, s in zip(labels, LOGITS_STRONG, strict=True)
    ]
    assert float(method.loss(predict, params, batch)) == pytest.approx(SUPERVISED + (kl[0] + kl[2]) / 3, rel=1e-5)


@pytest.mark.parametrize(("progress", "kept"), [(0.0, [1]), (0.5, [0, 1]), (1.0, [0, 1])])
def test_training_signal_annealing_drops_examples_that_are_known(progress: float, kept: list[int]) -> None:
    """Probabilities of the correct class are 0.73 and 0.38; the threshold rises from 1/2 to 1."""
    method, params, batch, _ = prepared("uda", progress, tsa="linear")
    loss = method.labelled_loss(predict(params, LOGITS_LABELLED), TARGETS, progress)
    assert float(loss) == pytest.approx(sum(cross_entropy(LOGITS_LABELLED[i], 0) for i in kept) / len(kept), rel=1e-6)


def test_annealing_thresholds_of_all_schedules_end_points() -> None:
    for tsa, start, end in [
        ("linear", 0.5, 1.0),
        ("log", 0.5, 0.5 + 0.5 * (1 - math.exp(-5))),
        ("exp", 0.5 + 0.5 * math.exp(-5), 1.0),
    ]:
        method = methods.get("uda")(tsa=tsa).bind(Classes(2))
        assert method.annealing_threshold(0.0) == pytest.approx(start)  # type: ignore[attr-defined]
        assert method.annealing_threshold(1.0) == pytest.approx(end)  # type: ignore[attr-defined]


def test_an_annealed_batch_with_nothing_left_has_zero_loss_not_nan() -> None:
    method = methods.get("uda")(tsa="linear").bind(Classes(2))
    raw = torch.tensor([[9.0, 0.0]], requires_grad=True)
    loss = method.labelled_loss(raw, torch.tensor([0]), 0.0)
    assert float(loss) == 0.0
    loss.backward()
    assert torch.equal(raw.grad, torch.zeros(1, 2))


def test_ramps_and_ema_warm_up() -> None:
    method = methods.get("pseudo_label")(weight=3.0, ramp=0.4).bind(Classes(2))
    assert [method.weight_at(p) for p in (0.0, 0.2, 0.4, 0.9)] == [0.0, 1.5, 3.0, 3.0]
    assert methods.get("fixmatch")().weight_at(0.0) == 1.0
    assert [ema_decay(t, 0.999) for t in (1, 2, 9)] == [0.5, pytest.approx(2 / 3), 0.9]
    assert ema_decay(10**6, 0.999) == 0.999


@pytest.mark.parametrize("name", list(methods))
def test_psi_is_differentiable_and_the_imputed_labels_are_distributions(name: str) -> None:
    method, params, batch, _ = prepared(name)
    labels = method.psi(predict, params, batch.unlabelled)
    (slope,) = torch.autograd.grad((labels * torch.tensor([1.0, 0.0])).sum(), params["scale"])
    assert abs(float(slope)) > 1e-4
    for z in (labels.detach(), batch.imputation.labels):
        torch.testing.assert_close(z.sum(-1), torch.ones(3))


def test_classification_only_methods_refuse_values() -> None:
    for name in ("fixmatch", "uda"):
        with pytest.raises(MethodError, match="regression task has none"):
            methods.get(name)().bind(Values(2))
    with pytest.raises(MethodError, match="temperature"):
        methods.get("uda")(temperature=0.0).bind(Classes(2))


def test_regression_pseudo_labels_are_the_predicted_values() -> None:
    method = methods.get("pseudo_label")(ramp=0.0).bind(Values(2))
    params = {"scale": torch.tensor(2.0)}
    found = method.impute(predict, params, case().unlabelled, {})
    assert torch.equal(found.labels, 2 * LOGITS_WEAK) and torch.equal(found.weights, torch.ones(3))


def test_concatenate_pads_token_rows() -> None:
    left = {"input_ids": torch.ones(2, 3, dtype=torch.long), "attention_mask": torch.ones(2, 3, dtype=torch.long)}
    right = {"input_ids": torch.ones(1, 5, dtype=torch.long), "attention_mask": torch.ones(1, 5, dtype=torch.long)}
    found = concatenate(left, right)
    assert found["input_ids"].shape == (3, 5) and found["attention_mask"].tolist()[0] == [1, 1, 1, 0, 0]


def test_kl_has_a_finite_slope_at_a_probability_that_underflowed() -> None:
    labels = torch.tensor([[1.0, 0.0, 0.0]], requires_grad=True)
    raw = torch.tensor([[0.3, -0.2, 0.1]])
    (slope,) = torch.autograd.grad(kl_divergence(Classes(3), raw, labels).sum(), labels)
    assert torch.isfinite(slope).all()
    assert float(slope[0, 0]) == pytest.approx(1.0 - float(raw.log_softmax(-1)[0, 0]), rel=1e-6), (
        "log p + 1 - log q at p = 1"
    )

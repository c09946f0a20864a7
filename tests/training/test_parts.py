"""Outer optimisers, schedules, averaging, evaluation."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from metaimpute.recipes.optim import OptimizerSpec, ScheduleSpec
from metaimpute.tasks.two_moons import TwoMoons
from metaimpute.training.assemble import averaged_model
from metaimpute.training.evaluation import measure
from metaimpute.training.stopwatch import Stopwatch


def test_schedules() -> None:
    assert [ScheduleSpec(warmup=4).factor_at(10)(t) for t in (0, 3, 9)] == [0.25, 1.0, 1.0]
    linear = ScheduleSpec(name="linear", warmup=2).factor_at(12)
    assert linear(2) == 1.0 and linear(7) == 0.5 and linear(12) == 0.0
    assert ScheduleSpec(name="cosine").factor_at(16)(8) == pytest.approx(math.cos(7 * math.pi / 32))
    steps = ScheduleSpec(name="steps", milestones=[0.5, 0.75]).factor_at(100)
    assert [steps(t) for t in (0, 50, 75)] == [1.0, 0.1, pytest.approx(0.01)]


def test_optimizers_and_the_heads_own_learning_rate() -> None:
    net = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2))
    built = OptimizerSpec(name="adamw", lr=0.1, head_lr=0.5, weight_decay=0.2).build(net, ("1.weight", "1.bias"))
    assert isinstance(built, torch.optim.AdamW)
    assert [(len(g["params"]), g["lr"]) for g in built.param_groups] == [(2, 0.1), (2, 0.5)]
    sgd = OptimizerSpec(name="sgd", lr=0.1, momentum=0.8, nesterov=True).build(net)
    assert isinstance(sgd, torch.optim.SGD) and sgd.defaults["momentum"] == 0.8 and sgd.defaults["nesterov"]
    assert isinstance(OptimizerSpec().build([torch.zeros(1, requires_grad=True)]), torch.optim.Adam)


def test_biases_and_scales_that_are_not_to_decay_have_groups_of_their_own() -> None:
    net = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))
    spec = OptimizerSpec(name="adamw", lr=0.1, weight_decay=0.2, decay_biases=False)
    built = spec.build(net)
    assert [(len(g["params"]), g["weight_decay"]) for g in built.param_groups] == [(2, 0.2), (4, 0.0)]
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    for p in net.parameters():
        p.grad = torch.zeros_like(p)
    built.step()
    for name, p in net.named_parameters():
        torch.testing.assert_close(p.detach(), before[name] * (0.98 if p.ndim > 1 else 1.0))
    head = spec.model_copy(update={"head_lr": 0.5}).build(net, ("2.weight", "2.bias"))
    groups = [(len(g["params"]), g["lr"], g["weight_decay"]) for g in head.param_groups]
    assert groups == [(1, 0.1, 0.2), (3, 0.1, 0.0), (1, 0.5, 0.2), (1, 0.5, 0.0)]
    learned = spec.build([torch.zeros(3, requires_grad=True)])
    assert [g["weight_decay"] for g in learned.param_groups] == [0.2], "what a problem learns is no bias"


@pytest.mark.parametrize(("head_lr", "groups"), [(None, 1), (0.5, 2)])
def test_groups_are_as_before_where_all_parameters_decay(head_lr: float | None, groups: int) -> None:
    """Else checkpoints of earlier runs would not fit."""
    net = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2))
    built = OptimizerSpec(lr=0.1, head_lr=head_lr, weight_decay=0.2).build(net, ("1.weight", "1.bias"))
    old: list[dict[str, Any]] = [{"params": list(net[0].parameters())}, {"params": list(net[1].parameters())}]
    if head_lr is None:
        old = [{"params": list(net.parameters())}]
    else:
        old[1]["lr"] = head_lr
    state = torch.optim.Adam(old, lr=0.1, weight_decay=0.2).state_dict()
    assert len(built.param_groups) == groups
    built.load_state_dict(state)
    assert built.state_dict() == state


def test_decay_from_the_start_is_that_of_berts_optimiser() -> None:
    """t / warmup, then 1 - t / T: at the end of the warm-up it is below 1 already."""
    linear = ScheduleSpec(name="linear", warmup=4, decay_from="start").factor_at(10)
    assert [linear(t) for t in (0, 1, 3, 4, 9, 10)] == pytest.approx([0, 0.25, 0.75, 0.6, 0.1, 0])
    cosine = ScheduleSpec(name="cosine", warmup=4, decay_from="start").factor_at(16)
    assert cosine(8) == pytest.approx(math.cos(7 * math.pi / 32))
    plain, same = (ScheduleSpec(name="linear", decay_from=where).factor_at(10) for where in ("warmup", "start"))
    assert plain(3) == same(3), "without a warm-up they are one"


@pytest.mark.parametrize("name", ["constant", "steps"])
def test_decay_from_the_start_needs_a_decay(name: Any) -> None:
    with pytest.raises(ValidationError, match=f"decay_from: start is for linear and cosine decay, not for '{name}'"):
        ScheduleSpec(name=name, decay_from="start")


def test_sections_written_before_these_options_mean_what_they_did() -> None:
    optimizer = {"name": "adamw", "lr": 0.1, "head_lr": None, "weight_decay": 0.2, "momentum": 0.9, "nesterov": False}
    assert OptimizerSpec.model_validate({**optimizer, "betas": [0.9, 0.999]}).decay_biases
    schedule = {"name": "linear", "warmup": 4, "milestones": [], "factor": 0.1}
    assert ScheduleSpec.model_validate(schedule).factor_at(10)(0) == 0.25


def test_averaged_weights_warm_up_and_average_float_buffers() -> None:
    net = nn.Sequential(nn.Linear(1, 1, bias=False), nn.BatchNorm1d(1))
    averaged = averaged_model(net, 0.9)
    expected = None
    for step in range(15):
        with torch.no_grad():
            net[0].weight.fill_(float(step))  # type: ignore[operator]
            net[1].running_mean.fill_(2.0 * step)  # type: ignore[operator,union-attr]
            net[1].num_batches_tracked += 1  # type: ignore[operator]
        averaged.update_parameters(net)
        decay = 0.0 if expected is None else min(1 - 1 / (step + 1), 0.9)
        expected = float(step) if expected is None else decay * expected + (1 - decay) * step
        assert float(averaged.module[0].weight) == pytest.approx(expected, rel=1e-5)
        assert float(averaged.module[1].running_mean) == pytest.approx(2 * expected, rel=1e-5)
    assert int(averaged.module[1].num_batches_tracked) == 15


def test_evaluation_is_in_eval_mode_over_all_examples_and_restores_training() -> None:
    task = TwoMoons(size=200)
    data = task.load(0)

    class Rule(nn.Module):
        """Predicts class 1 for the lower half plane; complains when it is in training mode."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            assert not self.training
            return torch.stack([x[:, 1], 0.25 - x[:, 1]], -1)

    module = Rule().train()
    points, targets = data.test.inputs, data.test.targets
    assert isinstance(points, torch.Tensor) and targets is not None
    expected = 100.0 * float(((points[:, 1] < 0.125).long() != targets).float().mean())
    assert measure(module, task, data.test, 37, torch.device("cpu"))["error"] == pytest.approx(expected)
    assert module.training
    assert math.isnan(measure(module, task, data.test.subset(torch.arange(0)), 8, torch.device("cpu"))["error"])


def test_a_stopwatchs_parts_add_up_when_one_lies_in_another(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter(range(100))
    monkeypatch.setattr("metaimpute.training.stopwatch.time.perf_counter", lambda: float(next(ticks)))
    phases = Stopwatch(torch.device("cpu"))
    with phases("outer"):  # 0
        with phases("inner"):  # 1
            pass  # 2
        with phases("inner"):  # 3
            pass  # 4
    assert phases.seconds == {"outer": 1 + 1 + 1, "inner": 1 + 1}
    with pytest.raises(KeyError), phases("outer"):
        raise KeyError
    assert phases.seconds["outer"] == 4 and not phases._open

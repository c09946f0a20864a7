"""Which examples a step sees is a pure function of (seed, stream, step)."""

from __future__ import annotations

import pytest
import torch

from metaimpute.training.sampling import StepSampler


@pytest.mark.parametrize(("size", "batch"), [(10, 3), (7, 7), (3, 8), (1, 4), (100, 1)])
def test_every_pass_sees_every_example_once(size: int, batch: int) -> None:
    sampler = StepSampler(size, batch, seed=1, stream=2)
    steps = 4 * size
    drawn = torch.cat([sampler(t) for t in range(steps)])
    assert drawn.shape == (steps * batch,)
    for epoch in drawn[: len(drawn) // size * size].view(-1, size):
        assert sorted(epoch.tolist()) == list(range(size))


def test_steps_can_be_asked_for_in_any_order_and_streams_differ() -> None:
    forward = StepSampler(50, 8, 3, 1)
    expected = [forward(t).tolist() for t in range(100)]
    backward = StepSampler(50, 8, 3, 1)
    assert [backward(t).tolist() for t in reversed(range(100))] == expected[::-1]
    assert StepSampler(50, 8, 3, 2)(0).tolist() != expected[0]
    assert StepSampler(50, 8, 4, 1)(0).tolist() != expected[0]


def test_empty_pools_are_refused() -> None:
    with pytest.raises(ValueError, match="cannot draw"):
        StepSampler(0, 3, 0, 0)

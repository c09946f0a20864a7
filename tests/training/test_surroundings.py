"""Whatever mode torch is in around them, a run, an estimator of scikit-learn's kind and a prediction give the usual numbers."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.autograd import forward_ad

import metaimpute
from metaimpute import MetaImputer, MetaImputerRegressor


@contextlib.contextmanager
def float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


AROUND: dict[str, Callable[[], Any]] = {
    "no_grad": torch.no_grad,
    "inference mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "float64": float64,
    "another device": lambda: torch.device("meta"),
    "anomaly detection": lambda: torch.autograd.set_detect_anomaly(True),
    "no forward mode": lambda: forward_ad._set_fwd_grad_enabled(False),
}
POINTS = torch.tensor([[0.1, -0.4], [1.2, 0.3]])
ROWS = np.random.RandomState(0).randn(60, 2)
SETS = {"train.steps": 8, "train.eval_every": 4, "train.log_every": 4, "train.threads": 1, "train.ema": 0.9}


def a_run() -> Any:
    run = metaimpute.train("two_moons", set=SETS, seed=0)
    found = run.predictor().predict_proba(POINTS)
    return run.result.evaluations, run.metrics, run.result.weights_sha256, found.tolist()


def a_run_that_goes_on() -> Any:
    def stop(step: int, values: dict[str, float]) -> None:
        if step == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        metaimpute.train("two_moons", set={**SETS, "train.checkpoint_every": 2}, seed=0, out="part", report=stop)
    run = metaimpute.train(resume="part")
    return run.result.evaluations, run.result.weights_sha256


def classes() -> Any:
    y = np.where(np.arange(60) < 10, ROWS[:, 0] > 0, -1)
    found = MetaImputer("fixmatch", "l2i", systems=["kernel", "network"], steps=5, random_state=0).fit(ROWS, y)
    return found.loss_curve_, found.label_distributions_.tolist(), found.predict_proba(ROWS).tolist()


def values() -> Any:
    y = np.where(np.arange(60) < 10, ROWS[:, 0], np.nan)
    found = MetaImputerRegressor(systems=["ridge", "network"], steps=5, random_state=0).fit(ROWS, y)
    return found.loss_curve_, found.transduction_.tolist(), found.predict(ROWS).tolist()


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("what", [a_run, a_run_that_goes_on, classes, values])
def test_the_numbers_are_the_usual_ones(
    what: Callable[[], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = what()
    for number, around in enumerate(AROUND):
        (tmp_path / str(number)).mkdir()
        monkeypatch.chdir(tmp_path / str(number))
        with AROUND[around]():
            before = state()
            found = what()
            assert state() == before, around
        assert found == usual, around


def state() -> Any:
    return (
        torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.get_default_dtype(), torch.get_default_device(),
        torch.is_autocast_enabled("cpu"), torch.is_anomaly_enabled(),
        forward_ad._is_fwd_grad_enabled(),
    )  # fmt: skip

"""Training, imputing and predicting give the same numbers whatever mode of torch surrounds the call."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_wine

import metaimpute
from metaimpute import MetaImputer, MetaImputerRegressor


@contextlib.contextmanager
def double() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    assert torch.get_default_dtype() == torch.float64, "it is put back"
    torch.set_default_dtype(before)


SURROUNDINGS: dict[str, Callable[[], AbstractContextManager[object]]] = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "float64": double,
    "device": lambda: torch.device("meta"),
}
SHORT = {"train.steps": 12, "train.eval_every": 6, "train.log_every": 4, "train.threads": 1}


@pytest.mark.parametrize("name", SURROUNDINGS)
@pytest.mark.parametrize("problem", ["none", "l2i", "l2i_learnable"])
def test_a_run_is_the_same_run(name: str, problem: str, tmp_path: Path) -> None:
    changes = {**SHORT, "problem.name": problem}
    usual = metaimpute.train("two_moons", set=changes, out=tmp_path / "usual")
    with SURROUNDINGS[name]():
        found = metaimpute.train("two_moons", set=changes, out=tmp_path / "found")
        again = found.predictor()
    assert found.result.weights_sha256 == usual.result.weights_sha256
    assert found.result.evaluations == usual.result.evaluations
    inputs = torch.randn(4, 2)
    np.testing.assert_array_equal(again.predict_proba(inputs), usual.predictor().predict_proba(inputs))


@pytest.mark.parametrize("name", SURROUNDINGS)
def test_an_imputation_is_the_same_imputation(name: str) -> None:
    X, y = load_wine(return_X_y=True)
    y[::3] = -1
    values = X[:, 0].copy()
    values[::3] = np.nan
    imputer = MetaImputer("fixmatch", "l2i", systems=["kernel", "network"], steps=8, width=8, random_state=0)
    regressor = MetaImputerRegressor(systems=["network"], steps=8, width=8, random_state=0)
    usual = imputer.fit(X, y).predict_proba(X)
    line = regressor.fit(X[:, 1:], values).predict(X[:, 1:])
    with SURROUNDINGS[name]():
        np.testing.assert_array_equal(imputer.predict_proba(X), usual)
        np.testing.assert_array_equal(imputer.fit(X, y).predict_proba(X), usual)
        np.testing.assert_array_equal(regressor.fit(X[:, 1:], values).predict(X[:, 1:]), line)

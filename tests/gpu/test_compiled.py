"""A compiled inner step on the device gives the uncompiled one's hypergradient."""

from __future__ import annotations

import dataclasses
import importlib.util
import shutil

import pytest
import torch

from metaimpute.engine import Compiled

from ..conformance.problems import Case, make_case
from ..conformance.test_estimators import assert_exact, estimate, inner_optimizer
from .cases import assert_near
from .conftest import needs_whole_device

pytestmark = pytest.mark.usefixtures("float64")


@pytest.fixture
def inductor(device: torch.device) -> str:
    if shutil.which("g++") is None and shutil.which("clang++") is None:
        pytest.skip("torch.compile's inductor needs a C++ compiler")
    if device.type == "cuda" and importlib.util.find_spec("triton") is None:
        pytest.skip("torch.compile's inductor needs triton on a CUDA device")
    return "inductor"


def compiled(case: Case, backend: str) -> Case:
    needs_whole_device()
    return dataclasses.replace(case, inner=Compiled(case.inner, backend))


@pytest.mark.parametrize("memory", ["store", "recompute", "recompute(offload)"])
@pytest.mark.parametrize("architecture", ["tied_unused_frozen", "conv_batchnorm"])
def test_traced_steps_give_the_uncompiled_hypergradient(architecture: str, memory: str, device: torch.device) -> None:
    case, rule = make_case(architecture, steps=3, device=device), inner_optimizer("momentum")
    found = estimate(compiled(case, "aot_eager"), rule, 3, "exact", memory)
    assert_near(found, estimate(case, rule, 3, "exact"), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(
    ("architecture", "rule"),
    [("tied_unused_frozen", "adam"), ("conv_batchnorm", "momentum"), ("tied_unused_frozen", "sgd")],
)
def test_fused_kernels_give_the_uncompiled_hypergradient(
    architecture: str, rule: str, inductor: str, device: torch.device
) -> None:
    case = make_case(architecture, steps=2, device=device)
    fast = compiled(case, inductor)
    for memory in ("store", "recompute"):
        found = estimate(fast, inner_optimizer(rule), 2, "exact", memory)
        assert_near(found, estimate(case, inner_optimizer(rule), 2, "exact"), rtol=1e-9, atol=1e-11, what=memory)


def test_noise_in_fused_kernels_is_repeated_when_a_step_is(inductor: str, device: torch.device) -> None:
    fast, rule = compiled(make_case("mlp_dropout", steps=2, device=device), inductor), inner_optimizer("sgd")
    found = estimate(fast, rule, 2, "exact")
    assert_exact(fast, rule, 2, {"compiled": found})
    assert_near(estimate(fast, rule, 2, "exact", "recompute"), found, rtol=1e-12, atol=1e-14)

"""Low precision, compiled steps and late looks on the device: near float32's step, and no wait inside one on CUDA."""

from __future__ import annotations

import shutil
from typing import Any

import pytest
import torch

for package in ("pydantic", "rich"):
    pytest.importorskip(package)

from metaimpute.bench.step import Bench, Config, Speed
from metaimpute.training.compiled import require_compiler

from .conftest import needs_whole_device

STEPS = [Config("mean_teacher", "none"), Config("mean_teacher", "l2i", "mixed"), Config("mean_teacher", "l2i", "exact")]


def moved(device: torch.device, config: Config, speed: Speed) -> torch.Tensor:
    """How far two steps carry the network's parameters."""
    algorithm, batch, holdout = Bench(4, 1, 16, str(device)).algorithm(config, speed)
    for scale in algorithm.scales.values():
        scale.value.fill_(2.0**8)
    before = [p.detach().clone() for p in algorithm.model.params.values()]
    for _ in range(2):
        algorithm.step(batch, None if config.problem == "none" else holdout)
    algorithm.settle()
    pairs = zip(algorithm.model.params.values(), before, strict=True)
    return torch.cat([(p.detach() - start).flatten() for p, start in pairs]).double().cpu()


def near(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float(torch.cosine_similarity(found, wanted, 0))


@pytest.mark.parametrize("config", STEPS, ids=lambda config: config.name)
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_step_in_low_precision_goes_where_the_float32_one_does(
    precision: Any, config: Config, device: torch.device
) -> None:
    needs_whole_device()
    plain, low = moved(device, config, Speed()), moved(device, config, Speed(precision))
    assert near(low, plain) > 0.98 and not torch.equal(low, plain)


@pytest.mark.parametrize("config", STEPS, ids=lambda config: config.name)
def test_channels_last_and_fused_kernels_change_rounding_alone(config: Config, device: torch.device) -> None:
    needs_whole_device()
    plain = moved(device, config, Speed())
    assert near(moved(device, config, Speed(channels_last=True, fused=True)), plain) > 0.999


@pytest.mark.slow
@pytest.mark.parametrize("config", STEPS, ids=lambda config: config.name)
def test_a_compiled_step_goes_where_the_uncompiled_one_does(config: Config, device: torch.device) -> None:
    needs_whole_device()
    if require_compiler(device) is not None or shutil.which("g++") is None:
        pytest.skip("torch.compile's inductor needs triton on a CUDA device, and a C++ compiler")
    assert near(moved(device, config, Speed(compile=True)), moved(device, config, Speed())) > 0.999


@pytest.mark.parametrize("precision", ["float32", "bf16", "fp16"])
@pytest.mark.parametrize("config", STEPS, ids=lambda config: config.name)
def test_a_step_waits_for_nothing(config: Config, precision: Any, device: torch.device) -> None:
    if device.type != "cuda":
        pytest.skip("torch tells waits on CUDA alone; tests/training/test_looking_late.py counts reads on the CPU")
    algorithm, batch, holdout = Bench(4, 1, 16, str(device)).algorithm(config, Speed(precision, fused=True))
    given = None if config.problem == "none" else holdout
    algorithm.step(batch, given)
    torch.cuda.set_sync_debug_mode("error")
    try:
        algorithm.step(batch, given)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    algorithm.settle()

"""Autocast and low precision: the hypergradient of an inner loss in few bits against the one in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metaimpute.engine import Batches, FunctionalModel, hypergradient, momentum

from .conftest import needs_whole_device

# relative error in norm: bfloat16 has 8 bits of mantissa and float16 has 11, over three steps of a net of three layers
TOLERANCE = {torch.bfloat16: 0.02, torch.float16: 0.003}
ESTIMATORS = ("exact", "mixed", "truncated(2)", "finite_difference", "cg(2)")


class Net:
    def __init__(self, device: torch.device, dtype: torch.dtype = torch.float32) -> None:
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(8, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 3)).to(
            device, dtype
        )
        self.model, self.device, self.dtype = FunctionalModel(net), device, dtype
        self.x, self.y = torch.randn(64, 8).to(device, dtype), torch.randint(0, 3, (64,)).to(device)

    def run(self, name: str, lower: torch.dtype | None, memory: str = "store", where: str = "inside") -> Any:
        if lower is not None:
            needs_whole_device()

        def inner(p: Any, c: Any, b: Any) -> Tensor:
            with torch.autocast(self.device.type, dtype=lower, enabled=lower is not None and where == "inside"):
                raw = self.model(p, self.x)
            return (c * F.cross_entropy(raw.to(self.dtype), self.y, reduction="none")).mean()

        def outer(p: Any, c: Any, b: Any) -> Tensor:
            return F.cross_entropy(self.model(p, self.x.flip(0)).to(self.dtype), self.y)

        weights = torch.ones(64, device=self.device, dtype=self.dtype)
        with torch.autocast(self.device.type, dtype=lower, enabled=lower is not None and where == "around"):
            return hypergradient(inner, outer, self.model.params, weights, Batches([None], None), momentum(0.3), name, steps=3,
                                 memory=memory, seed=0).grad_c  # fmt: skip


def relative_error(found: Tensor, reference: Tensor) -> float:
    found, reference = found.double().cpu(), reference.cpu()
    return float((found - reference).norm() / reference.norm())


@pytest.fixture
def reference(device: torch.device) -> Any:
    """Of an estimator, in float64, on the CPU."""
    return lambda name: Net(torch.device("cpu"), torch.float64).run(name, None)


@pytest.mark.parametrize("lower", TOLERANCE, ids=str)
@pytest.mark.parametrize("where", ["inside", "around"])
@pytest.mark.parametrize("name", ESTIMATORS)
def test_autocast_gives_the_float64_hypergradient_to_its_precision(
    name: str, where: str, lower: torch.dtype, device: torch.device, reference: Any
) -> None:
    net = Net(device)
    found, plain = net.run(name, lower, where=where), net.run(name, None)
    assert found.dtype == torch.float32
    assert not torch.equal(found, plain), "autocast must have been in force"
    # a difference of two losses in few bits is the least exact
    tolerance = TOLERANCE[lower] * (10 if name == "finite_difference" else 1)
    assert relative_error(found, reference(name)) < tolerance
    assert relative_error(plain, reference(name)) < 1e-2 * (1 if name == "finite_difference" else 0.1)


@pytest.mark.parametrize("lower", TOLERANCE, ids=str)
@pytest.mark.parametrize("where", ["inside", "around"])
@pytest.mark.parametrize("memory", ["recompute", "revolve(2)", "recompute(offload)"])
@pytest.mark.usefixtures("reproducible")
def test_rebuilt_steps_are_under_the_same_autocast(
    memory: str, where: str, lower: torch.dtype, device: torch.device
) -> None:
    net = Net(device)
    torch.testing.assert_close(
        net.run("exact", lower, memory, where), net.run("exact", lower, where=where), rtol=1e-5, atol=1e-8
    )


@pytest.mark.parametrize("mode", ["high", "highest"])
def test_float32_matrix_products_as_the_user_has_set_them(mode: str, device: torch.device, reference: Any) -> None:
    """TensorFloat-32 has the mantissa of float16; what is set is left as it was."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(mode)
    try:
        found = Net(device).run("exact", None)
        assert torch.get_float32_matmul_precision() == mode
    finally:
        torch.set_float32_matmul_precision(before)
    assert relative_error(found, reference("exact")) < (TOLERANCE[torch.float16] if mode == "high" else 1e-4)

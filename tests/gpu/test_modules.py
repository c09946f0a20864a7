"""Modules on the device: recurrent layers, attention, hooks, and reverse passes in autograd's own threads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metaimpute.engine import Batches, EstimatorError, FunctionalModel, hypergradient, momentum, sgd

from ..conformance.problems import make_case
from ..conformance.test_estimators import estimate, inner_optimizer
from .cases import assert_near
from .conftest import needs_whole_device

MEMORIES = ("store", "recompute", "revolve(2)")


@pytest.mark.parametrize("name", ["exact", "mixed", "first_order", "cg(2)"])
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_layers_run_under_every_estimator_in_float32(
    kind: type[nn.RNNBase], name: str, device: torch.device
) -> None:
    """cuDNN has no second derivative of them; in a FunctionalModel torch's own kernels take its place."""
    needs_whole_device()
    torch.manual_seed(0)
    net = nn.Sequential(kind(4, 5, batch_first=True), Last(), nn.Linear(5, 3)).to(device)
    model, x = FunctionalModel(net), torch.randn(6, 3, 4).to(device)
    y = torch.arange(6).remainder(3).to(device)

    def run(precision: torch.dtype) -> Any:
        net.to(precision)
        inputs = x.to(precision)

        def inner(p: Any, c: Any, b: Any) -> Tensor:
            return (c * F.cross_entropy(model(p, inputs), y, reduction="none")).mean()

        def outer(p: Any, c: Any, b: Any) -> Tensor:
            return F.cross_entropy(model(p, inputs.flip(0)), y)

        weights = torch.ones(6, dtype=precision, device=device)
        return hypergradient(inner, outer, model.params, weights, Batches([None], None), momentum(0.3), name, steps=3,
                             seed=0).grad_c.double().cpu()  # fmt: skip

    found = run(torch.float32)
    assert torch.backends.cudnn.enabled, "left as it was"
    if device.type != "mps":
        torch.testing.assert_close(found, run(torch.float64), rtol=2e-3, atol=1e-6)


class Last(nn.Module):
    """The outputs of a recurrent layer at the last position."""

    def forward(self, found: tuple[Tensor, Any]) -> Tensor:
        return found[0][:, -1]


def test_a_recurrent_layer_outside_a_functional_model_is_refused_with_the_way_out(cuda: torch.device) -> None:
    cell = nn.LSTM(4, 5, batch_first=True).to(cuda)
    x = torch.randn(6, 3, 4, device=cuda)
    start = {"scale": torch.ones(4, device=cuda)}

    def loss(p: Any, c: Any, b: Any) -> Tensor:
        return (cell(x * p["scale"])[0] * c).square().mean()

    with pytest.raises(EstimatorError, match=r"cudnn.*FunctionalModel"):
        hypergradient(loss, loss, start, torch.ones(5, device=cuda), Batches([None], None), sgd(0.1), "exact", steps=2)


class Hooked(nn.Module):
    """A forward hook, and a part reached by a way torch does not know: both have the engine change the user's module itself."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last, self.seen = nn.Linear(4, 5), nn.Linear(5, 3), 0
        self.ways = {"first": self.first}
        self.first.register_forward_hook(self.count)

    def count(self, *_: Any) -> None:
        self.seen += 1

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.ways["first"](x).tanh())


class Keeping(nn.Module):
    """Sets an attribute in every pass, as layers with a loss of their own do."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last, self.kept = nn.Linear(4, 5), nn.Linear(5, 3), None

    def forward(self, x: Tensor) -> Tensor:
        self.kept = self.first(x)
        return self.last(self.kept.tanh())


@pytest.mark.parametrize("memory", MEMORIES)
@pytest.mark.parametrize("make", [Hooked, Keeping])
def test_steps_rebuilt_in_autograds_thread_end_and_leave_modules_as_they_were(
    make: Callable[[], nn.Module], memory: str, device: torch.device
) -> None:
    torch.manual_seed(0)
    net = make().to(device)
    model, x = FunctionalModel(net), torch.randn(6, 4).to(device)
    y = torch.arange(6).remainder(3).to(device)

    def inner(p: Any, c: Any, b: Any) -> Tensor:
        return (c * F.cross_entropy(model(p, x), y, reduction="none")).mean()

    def run(policy: str) -> Any:
        return hypergradient(inner, lambda p, c, b: F.cross_entropy(model(p, x.flip(0)), y), model.params,
                             torch.ones(6, device=device), Batches([None], None), momentum(0.3), steps=4, seed=0,
                             memory=policy)  # fmt: skip

    assert_near(run(memory), run("store"), rtol=1e-4, atol=1e-7)
    assert all(p.is_leaf for p in net.parameters()) and getattr(net, "kept", None) is None


@pytest.mark.parametrize("name", ["exact", "mixed"])
def test_float32_is_near_float64(name: str, device: torch.device) -> None:
    """With all noise off; matrix products in full float32."""
    if device.type == "mps":
        pytest.skip("mps has no float64")
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        single, double = (
            estimate(make_case("conv_batchnorm", steps=3, device=device, dtype=dtype), inner_optimizer("sgd"), 3, name)
            for dtype in (torch.float32, torch.float64)
        )
    finally:
        torch.backends.cudnn.allow_tf32 = before
    one, other = single.grad_c["labels"].double(), double.grad_c["labels"]
    assert float((one - other).norm() / other.norm()) < 1e-3


PARTS: dict[str, Callable[[], nn.Module]] = {
    "RMSNorm": lambda: nn.RMSNorm(6), "LayerNorm": lambda: nn.LayerNorm(6), "GroupNorm": lambda: nn.GroupNorm(2, 6),
    "BatchNorm": lambda: nn.BatchNorm1d(6), "SiLU": nn.SiLU, "GELU": nn.GELU, "Mish": nn.Mish, "Softmax": lambda: nn.Softmax(-1),
    "PReLU": nn.PReLU, "Bilinear": lambda: Twice(nn.Bilinear(6, 6, 6)), "transformer": lambda: Layer(),
}  # fmt: skip


class Twice(nn.Module):
    """A part of two inputs, given one twice."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.part(x, x)
        return found


class Layer(nn.Module):
    """A causal transformer layer over the rows."""

    def __init__(self) -> None:
        super().__init__()
        self.part = nn.TransformerEncoderLayer(
            6, 2, 8, dropout=0.0, batch_first=True, activation="gelu", norm_first=True
        )

    def forward(self, x: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(len(x), device=x.device, dtype=x.dtype)
        found: Tensor = self.part(x[None], src_mask=mask, is_causal=True)[0]
        return found


@pytest.mark.parametrize("estimator", ["exact", "mixed", "forward", "cg(3)"])
@pytest.mark.parametrize("kind", PARTS)
@pytest.mark.usefixtures("float64")
def test_layers_with_kernels_of_their_own_have_the_cpus_hypergradient(
    kind: str, estimator: str, device: torch.device
) -> None:
    needs_whole_device()
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 6), PARTS[kind](), nn.Linear(6, 3))
    x, held = torch.randn(2, 5, 4, device="cpu")
    y = torch.arange(5, device="cpu").remainder(3)

    def found_on(where: torch.device) -> Any:
        net.to(where)
        model = FunctionalModel(net)

        def inner(p: Any, c: Any, rows: Tensor) -> Tensor:
            return (c * F.cross_entropy(model(p, rows), y.to(where), reduction="none")).mean()

        def outer(p: Any, c: Any, rows: Tensor) -> Tensor:
            return F.cross_entropy(model(p, rows), y.to(where))

        weights = torch.ones(5, device=where)
        batches = Batches([x.to(where)] * 2, held.to(where))
        return hypergradient(inner, outer, model.params, weights, batches, momentum(0.3), estimator, steps=2)

    assert_near(found_on(device), found_on(torch.device("cpu")), what=kind)

"""On the device every estimator gives finite differences of the whole map, and the CPU's numbers."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from metaimpute.engine import hypergradient, operators
from metaimpute.testing import check_hypergradient

from ..conformance.problems import ARCHITECTURES, make_case
from ..conformance.test_estimators import RULES, assert_exact, estimate, inner_optimizer
from .cases import assert_near, devices_of, quiet_case
from .conftest import needs_whole_device

pytestmark = pytest.mark.usefixtures("float64")

STEPS = (1, 3)
NOISELESS = ("conv_batchnorm", "tied_unused_frozen", "lstm")
# name -> how far from the CPU's: a quotient of differences and a linear system make more of rounding
INEXACT = {
    "truncated(2)": 1e-9, "first_order": 1e-9, "forward_gradient(2)": 1e-9, "finite_difference": 1e-5, "cg(3)": 1e-6,
    "neumann(3)": 1e-8,
}  # fmt: skip


def needed(architecture: str) -> None:
    if architecture in ("lstm", "gru"):
        needs_whole_device()
    if architecture == "hugging_face_bert":
        pytest.importorskip("transformers")


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_exact_estimators_equal_finite_differences(
    architecture: str, rule: str, steps: int, device: torch.device
) -> None:
    needed(architecture)
    case, optimizer = make_case(architecture, steps=steps, device=device), inner_optimizer(rule)
    results = {name: estimate(case, optimizer, steps, name) for name in ("exact", "mixed")}
    assert devices_of(results["exact"].theta_k) == devices_of(results["exact"].grad_c) == {device.type}
    assert_exact(case, optimizer, steps, results)
    assert_near(results["mixed"], results["exact"], what="mixed")


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_exact_gradients_are_the_cpus(architecture: str, rule: str, steps: int, device: torch.device) -> None:
    needed(architecture)
    found, reference = (
        estimate(quiet_case(architecture, steps, place), inner_optimizer(rule), steps, "exact")
        for place in (device, "cpu")
    )
    assert_near(found, reference)


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("rule", ["sgd", "momentum", "adam"])
@pytest.mark.parametrize("architecture", NOISELESS)
@pytest.mark.parametrize("name", ["mixed", "forward", *INEXACT])
def test_every_estimator_gives_the_cpus_numbers(
    name: str, architecture: str, rule: str, steps: int, device: torch.device
) -> None:
    needed(architecture)
    options: dict[str, Any] = {} if name == "mixed" else {"wrt_start": False}
    found, reference = (
        estimate(quiet_case(architecture, steps, place), inner_optimizer(rule), steps, name, **options)
        for place in (device, "cpu")
    )
    rtol = INEXACT.get(name, 1e-9)
    assert_near(found, reference, rtol=rtol, atol=1e-2 * rtol)


@pytest.mark.parametrize(("name", "steps"), [("head", 1), ("head", 3), ("approx", 1)])
def test_estimators_of_the_last_layer_give_the_cpus_numbers(name: str, steps: int, device: torch.device) -> None:
    found = []
    for place in (device, "cpu"):
        case = quiet_case("conv_batchnorm", steps, place)
        found.append(
            hypergradient(case.structured_inner, case.structured_outer, case.model.params, case.coupling, case.batches,
                          inner_optimizer("sgd"), name, steps=steps, seed=11, wrt_start=False)
        )  # fmt: skip
    assert_near(*found)


@pytest.mark.parametrize("architecture", ["mlp_dropout", "conv_batchnorm"])
def test_a_users_check_of_gradients_runs_on_the_device(architecture: str, device: torch.device) -> None:
    case = make_case(architecture, steps=1, device=device, dtype=torch.float32)
    torch.set_default_dtype(torch.float32)
    report = check_hypergradient(
        case.inner, case.outer, case.model.params, case.coupling, case.batches, inner_optimizer("sgd"), steps=2
    )
    assert {term.verdict for term in report.terms} <= {"right", "kink"}


def test_a_wrong_gradient_on_the_device_is_caught(device: torch.device) -> None:
    """The suite can fail: a loss with a term whose gradient is cut does not pass."""
    case, optimizer = make_case("tied_unused_frozen", steps=3, device=device), inner_optimizer("sgd")
    whole = case.inner

    def cut(theta: Any, c: Any, batch: Any) -> torch.Tensor:
        return whole(theta, c, batch) + (c["labels"].detach() * case.model(theta, batch[2])).mean()

    case.inner = cut
    with pytest.raises(AssertionError):
        assert_exact(case, optimizer, 3, {"exact": estimate(case, optimizer, 3, "exact")})


@pytest.mark.parametrize(
    ("architecture", "operator"),
    [
        ("conv_batchnorm", "CudnnBatchNormBackward0"),
        ("mlp_dropout", "NativeDropoutBackward0"),
        ("lstm", "ThnnFusedLstmCellBackward0"),
    ],
)
def test_what_forward_mode_may_be_trusted_with_on_the_device(
    architecture: str, operator: str, monkeypatch: pytest.MonkeyPatch, cuda: torch.device
) -> None:
    """An operator that passes here may enter the list of those through which ``mixed`` takes its cheap way."""
    monkeypatch.setattr(operators, "FORWARD_OVER_REVERSE", operators.FORWARD_OVER_REVERSE | {operator})
    case, rule = make_case(architecture, steps=3, device=cuda), inner_optimizer("momentum")
    found = estimate(case, rule, 3, "mixed")
    if "reverse_over_reverse" in found.diagnostics:
        pytest.skip(f"torch has no forward mode here: {found.diagnostics['reverse_over_reverse']}")
    assert_near(found, estimate(case, rule, 3, "exact"))

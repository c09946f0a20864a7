"""``torch.set_default_device`` changes where the user's new tensors live, and nothing in the package."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from metaimpute.engine import Compiled, get_estimator
from metaimpute.engine.estimators import estimators

from ..conformance.problems import make_case
from ..conformance.test_estimators import RULES, estimate, inner_optimizer
from .cases import assert_near, quiet_case
from .conftest import needs_whole_device

pytestmark = pytest.mark.usefixtures("float64")


@pytest.fixture
def by_default(device: torch.device) -> Iterator[torch.device]:
    before = torch.get_default_device()
    torch.set_default_device(device)
    yield device
    torch.set_default_device(before)


def options(name: str) -> str:
    return {
        "truncated": "truncated(2)",
        "forward_gradient": "forward_gradient(2)",
        "cg": "cg(2)",
        "es": "es(2)",
        "neumann": "neumann(2)",
    }.get(name, name)


@pytest.mark.parametrize("name", [name for name in estimators if name not in ("approx", "head")])
def test_estimators_run_under_a_default_device(name: str, device: torch.device, by_default: torch.device) -> None:
    torch.set_default_device("cpu")
    case = quiet_case("conv_batchnorm", 3, device)
    plain = estimate(case, inner_optimizer("momentum"), 3, get_estimator(options(name)), wrt_start=False)
    torch.set_default_device(by_default)
    found = estimate(case, inner_optimizer("momentum"), 3, get_estimator(options(name)), wrt_start=False)
    assert_near(found, plain, rtol=1e-5 if name in ("finite_difference", "cg") else 1e-9)


@pytest.mark.parametrize("rule", RULES)
def test_rules_whose_numbers_are_on_the_device_give_what_they_give_with_numbers_on_the_cpu(
    rule: str, device: torch.device, by_default: torch.device
) -> None:
    torch.set_default_device("cpu")
    case = quiet_case("tied_unused_frozen", 3, device)
    plain = estimate(case, inner_optimizer(rule), 3, "exact")
    torch.set_default_device(by_default)
    for memory in ("store", "recompute(offload)"):
        assert_near(estimate(case, inner_optimizer(rule), 3, "exact", memory), plain, what=memory)


def test_a_compiled_step_runs_under_a_default_device(by_default: torch.device) -> None:
    needs_whole_device()
    torch.set_default_device("cpu")
    case = make_case("tied_unused_frozen", steps=3, device=by_default)
    plain = estimate(case, inner_optimizer("adam"), 3, "exact")
    torch.set_default_device(by_default)
    case.inner = Compiled(case.inner, "aot_eager")
    assert_near(estimate(case, inner_optimizer("adam"), 3, "exact"), plain)

"""One inner step through torch.compile gives the hypergradient of the step it was made from."""

from __future__ import annotations

import dataclasses
import shutil
from typing import Any

import pytest
import torch

from metaimpute.engine import BadMemoryPolicy, Batches, CannotCompile, Compiled, hypergradient, sgd, unroll

from .problems import Case, make_case
from .test_estimators import RULES, assert_exact, estimate, inner_optimizer

pytestmark = pytest.mark.usefixtures("float64")
SLOW_RULES = tuple(rule for rule in RULES if rule != "momentum_scheduled")
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile's inductor needs a C++ compiler")


def compiled(case: Case, backend: str = "aot_eager") -> Case:
    """The same problem with its inner step compiled; ``aot_eager`` traces and differentiates as inductor does, uncompiled."""
    return dataclasses.replace(case, inner=Compiled(case.inner, backend))


def assert_same(found: Any, reference: Any, *, rtol: float = 1e-11) -> None:
    for field in ("grad_c", "grad_theta_0", "grad_optimizer", "theta_k", "first_gradient"):
        got, wanted = getattr(found, field), getattr(reference, field)
        if wanted is None:
            assert got is None
            continue
        torch.testing.assert_close(got, wanted, rtol=rtol, atol=1e-12, msg=lambda text, f=field: f"{f}: {text}")


@pytest.mark.parametrize("architecture", ["conv_batchnorm", "tied_unused_frozen"])
def test_a_compiled_step_gives_the_uncompiled_hypergradient_under_every_memory_policy(architecture: str) -> None:
    case, rule = make_case(architecture, steps=3), inner_optimizer("momentum")
    fast = compiled(case)
    for memory in ("store", "recompute", "revolve(2)"):
        assert_same(estimate(fast, rule, 3, "exact", memory), estimate(case, rule, 3, "exact"))


def test_estimators_that_unroll_take_a_compiled_step() -> None:
    case, rule = make_case("tied_unused_frozen", steps=3), inner_optimizer("momentum")
    fast = compiled(case)
    for name in ("first_order", "truncated(2)", "finite_difference"):
        assert_same(
            estimate(fast, rule, 3, name, wrt_start=False), estimate(case, rule, 3, name, wrt_start=False), rtol=1e-8
        )


def test_noise_in_a_compiled_step_is_repeated_when_the_step_is() -> None:
    """It is not the uncompiled step's noise, so the reference is finite differences of the compiled map itself."""
    fast, rule = compiled(make_case("mlp_dropout", steps=2)), inner_optimizer("adam")
    assert_exact(fast, rule, 2, {"compiled": estimate(fast, rule, 2, "exact")})
    assert_same(estimate(fast, rule, 2, "exact", "recompute"), estimate(fast, rule, 2, "exact"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "architecture", ["mlp_dropout", "conv_batchnorm_eval", "transformer_dropout", "hugging_face_bert"]
)
@pytest.mark.parametrize("rule", SLOW_RULES)
def test_compiled_step_of_every_rule_equals_finite_differences(rule: str, architecture: str) -> None:
    fast, optimizer = compiled(make_case(architecture, steps=3)), inner_optimizer(rule)
    assert_exact(fast, optimizer, 3, {"compiled": estimate(fast, optimizer, 3, "exact")})


@needs_compiler
def test_an_optimising_backend_gives_the_uncompiled_hypergradient() -> None:
    case, rule = make_case("tied_unused_frozen", steps=1), sgd(torch.tensor(0.3), weight_decay=0.05)
    assert_same(estimate(compiled(case, "inductor"), rule, 1, "exact"), estimate(case, rule, 1, "exact"))


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize("architecture", ["conv_batchnorm", "tied_unused_frozen"])
@pytest.mark.parametrize("rule", ["momentum", "adam"])
def test_an_optimising_backend_over_several_steps(rule: str, architecture: str) -> None:
    case = make_case(architecture, steps=3)
    fast = compiled(case, "inductor")
    for memory in ("store", "recompute"):
        assert_same(
            estimate(fast, inner_optimizer(rule), 3, "exact", memory), estimate(case, inner_optimizer(rule), 3, "exact")
        )


def test_a_compiled_loss_is_compiled_once_and_not_for_every_step_count() -> None:
    case, rule = make_case("tied_unused_frozen", steps=6), inner_optimizer("adam")
    fast = compiled(case)
    torch._dynamo.utils.counters.clear()
    estimate(fast, rule, 6, "exact")
    programs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    estimate(fast, rule, 6, "exact")
    assert programs <= 2, "the first step has no state with a gradient; all later ones are alike"
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == programs


def test_what_cannot_be_compiled_says_so_in_one_line() -> None:
    def branching(theta: Any, c: Any, batch: Any) -> torch.Tensor:
        return (theta["w"] * c).sum() if float(theta["w"].detach().sum()) > 0 else theta["w"].sum()

    theta, c, batches = {"w": torch.ones(2)}, torch.ones(2), Batches([None], None)
    with pytest.raises(CannotCompile, match=r"cannot be compiled as one step \(.*\); pass it uncompiled") as caught:
        hypergradient(Compiled(branching, "eager"), lambda th, c, b: th["w"].sum(), theta, c, batches, sgd(0.1))
    assert "\n" not in str(caught.value)


def test_memory_that_measures_a_step_refuses_a_compiled_one() -> None:
    case = compiled(make_case("tied_unused_frozen", steps=2))
    with pytest.raises(BadMemoryPolicy, match="cannot measure inside a compiled step"):
        estimate(case, sgd(0.1), 2, "exact", "auto(1MB)")


def test_an_unrolled_compiled_loss_refuses_a_gradient_it_would_lose() -> None:
    hidden = torch.ones(2, requires_grad=True)
    loss = Compiled(lambda th, c, b: (th["w"] ** 2 * c * hidden).sum(), "aot_eager")
    end = unroll(loss, {"w": torch.ones(2, requires_grad=True)}, torch.ones(2), [None], sgd(0.1), 2, memory="recompute")
    with pytest.raises(BadMemoryPolicy, match="requires a gradient but is in none of theta"):
        end.params["w"].sum().backward()

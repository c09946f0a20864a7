"""One inner step through torch.compile gives the hypergradient of the step it was made from."""

from __future__ import annotations

import dataclasses
import shutil
from typing import Any

import pytest
import torch

from metaimpute.engine import (
    BadMemoryPolicy,
    Batches,
    CannotCompile,
    Compiled,
    FunctionalModel,
    NotScalar,
    adam,
    clip_norm,
    hypergradient,
    scheduled,
    sgd,
    stack,
    stacked,
    unroll,
)
from metaimpute.engine import compiled as module

from .problems import Case, make_case
from .test_estimators import RULES, assert_exact, estimate, inner_optimizer

pytestmark = pytest.mark.usefixtures("float64")
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
@pytest.mark.parametrize("rule", RULES)
def test_compiled_step_of_every_rule_equals_finite_differences(rule: str, architecture: str) -> None:
    fast, optimizer = compiled(make_case(architecture, steps=3)), inner_optimizer(rule)
    assert_exact(fast, optimizer, 3, {"compiled": estimate(fast, optimizer, 3, "exact")})


@pytest.mark.slow
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


class Simple:
    """Example weights of a linear regression with two heads; a batch names the head it trains."""

    def __init__(self, dtype: torch.dtype = torch.float64) -> None:
        torch.manual_seed(2)
        self.x, self.c = torch.randn(5, 3, dtype=dtype), torch.rand(5, dtype=dtype)
        self.theta = {
            "a": torch.randn(3, dtype=dtype),
            "b": torch.randn(3, dtype=dtype),
            "shift": torch.tensor(0.3).to(dtype),
        }

    def inner(self, theta: Any, c: Any, batch: Any) -> torch.Tensor:
        return (c * (self.x @ theta[batch["head"]] + theta["shift"] - 1).square()).mean() * batch["scale"]

    def outer(self, theta: Any, c: Any, batch: Any) -> torch.Tensor:
        return (self.x @ (theta["a"] + 2 * theta["b"])).square().mean() + theta["shift"]

    def estimate(self, loss: Any, rule: Any, head: str = "a", scale: float = 1.0) -> Any:
        batches = Batches([{"head": head, "scale": scale}], None)
        return hypergradient(loss, self.outer, self.theta, self.c, batches, rule, steps=3, seed=0)


def test_a_number_that_changes_or_a_rule_built_again_is_no_new_program() -> None:
    problem = Simple()
    fast = Compiled(problem.inner, "aot_eager")
    torch._dynamo.utils.counters.clear()
    for lr, decay in ((0.1, 0.01), (0.2, 0.02), (0.05, 0.03)):
        rule = clip_norm(adam(lr, eps=0.05, weight_decay=decay), 10 * lr)
        assert_same(problem.estimate(fast, rule), problem.estimate(problem.inner, rule))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 2


def test_rules_that_differ_are_told_apart() -> None:
    problem = Simple()
    fast = Compiled(problem.inner, "aot_eager")
    for options in (
        {},
        {"maximize": True},
        {"momentum": 0.5},
        {"momentum": 0.5, "nesterov": True},
        {"weight_decay": 0.1},
    ):
        rule = sgd(0.1, **options)
        assert_same(problem.estimate(fast, rule), problem.estimate(problem.inner, rule))


def test_which_parameters_take_part_may_change_with_the_batch() -> None:
    """A head that the first batch did not train is not taken for one that never moves."""
    problem, rule = Simple(), sgd(0.1, weight_decay=0.1)
    fast = Compiled(problem.inner, "aot_eager")
    for head in ("a", "b"):
        assert_same(problem.estimate(fast, rule, head), problem.estimate(problem.inner, rule, head))


def test_parameters_without_dimensions_keep_their_type() -> None:
    problem, rule = Simple(torch.float32), adam(0.1, eps=0.05, weight_decay=0.1)
    found = problem.estimate(Compiled(problem.inner, "aot_eager"), rule)
    assert {leaf.dtype for leaf in found.theta_k.values()} == {torch.float32}
    reference = problem.estimate(problem.inner, rule)
    torch.testing.assert_close(found.grad_c, reference.grad_c, rtol=1e-4, atol=1e-6)


def test_a_modules_mode_statistics_and_frozen_parameters_are_no_constants() -> None:
    net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 1))
    net[0].bias.requires_grad_(False)
    model, problem = FunctionalModel(net), Simple()

    def inner(theta: Any, c: Any, batch: Any) -> torch.Tensor:
        return (c * model(theta, problem.x)[:, 0].square()).mean()

    def estimate(loss: Any) -> Any:
        return hypergradient(loss, inner, model.params, problem.c, Batches([None], None), sgd(0.1), seed=0)

    fast = Compiled(inner, "aot_eager")
    for change in (net.train, net.eval, lambda: net[1].running_mean.add_(1.0), lambda: net[0].bias.data.add_(1.0)):
        change()
        assert_same(estimate(fast), estimate(inner))


def test_a_stack_of_problems_in_a_compiled_step() -> None:
    net = FunctionalModel(torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1)))

    def inner(theta: Any, c: Any, batch: Any) -> torch.Tensor:
        return (c * net(theta, batch)[:, 0].square()).mean()

    problem, rule = Simple(), sgd(0.1, 0.9)
    batches = Batches([stack([problem.x] * 2)], stack([problem.x] * 2))
    many = stacked(inner)
    found, reference = (
        hypergradient(loss, many, stack([net.params] * 2), stack([problem.c] * 2), batches, rule, steps=2, seed=0)
        for loss in (Compiled(many, "aot_eager"), many)
    )
    assert_same(found, reference)


def test_numbers_in_the_batch_that_never_repeat_end_in_a_refusal_not_in_uncompiled_steps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "VARIANTS", 2)
    problem = Simple()
    fast = Compiled(problem.inner, "eager")
    with pytest.raises(CannotCompile, match="was compiled 2 times, each for another"):
        for scale in (1.0, 2.0, 3.0):
            problem.estimate(fast, sgd(0.1), scale=scale)


def test_mistakes_in_the_loss_are_the_losss_own() -> None:
    problem = Simple()
    with pytest.raises(NotScalar, match=r"must return a scalar tensor, not shape \[5\]; take its mean or sum$"):
        problem.estimate(Compiled(lambda th, c, b: c * th["shift"], "eager"), sgd(0.1))
    with pytest.raises(KeyError, match="^'weights'$"):
        problem.estimate(Compiled(lambda th, c, b: th["weights"].sum(), "eager"), sgd(0.1))


def test_what_cannot_be_compiled_says_so_in_one_line() -> None:
    def branching(theta: Any, c: Any, batch: Any) -> torch.Tensor:
        return (theta["w"] * c).sum() if float(theta["w"].detach().sum()) > 0 else theta["w"].sum()

    theta, c, batches = {"w": torch.ones(2)}, torch.ones(2), Batches([None], None)
    with pytest.raises(
        CannotCompile, match=r"the inner step cannot be compiled \(.*\); pass the loss uncompiled"
    ) as caught:
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


def test_estimators_that_do_not_unroll_take_the_loss_as_it_was() -> None:
    case, rule = make_case("tied_unused_frozen", steps=1), sgd(torch.tensor(0.3))
    wrapped = dataclasses.replace(case, inner=Compiled(case.structured_inner), outer=case.structured_outer)
    plain = dataclasses.replace(case, inner=case.structured_inner, outer=case.structured_outer)
    for name in ("approx", "head", "mixed"):
        assert_same(estimate(wrapped, rule, 1, name, wrt_start=False), estimate(plain, rule, 1, name, wrt_start=False))


def test_a_schedule_is_followed_step_by_step() -> None:
    case = make_case("tied_unused_frozen", steps=3)
    for schedule in ([1.0, 0.5, 0.25], torch.tensor([1.0, 0.5, 0.25])):
        rule = scheduled(sgd(torch.tensor(0.3)), schedule)
        assert_same(estimate(compiled(case), rule, 3, "exact"), estimate(case, rule, 3, "exact"))


def test_a_loss_that_updates_running_statistics_is_refused_with_the_reason() -> None:
    net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 1))
    model, problem = FunctionalModel(net), Simple()

    def inner(theta: Any, c: Any, batch: Any) -> torch.Tensor:
        with model.updating_buffers():
            return (c * model(theta, problem.x)[:, 0].square()).mean()

    with pytest.raises(CannotCompile, match=r"running statistics of its Sequential \(updating_buffers\)"):
        hypergradient(
            Compiled(inner, "aot_eager"), problem.outer, model.params, problem.c, Batches([None], None), sgd(0.1)
        )
    assert int(net[1].num_batches_tracked) == 0


@pytest.mark.parametrize("memory", ["store", "recompute"])
def test_bfloat16_autocast_in_a_compiled_step_gives_nearly_the_float32_gradient(memory: str) -> None:
    problem = Simple(torch.float32)
    net = torch.nn.Sequential(torch.nn.Linear(3, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1)).float()
    model = FunctionalModel(net)

    def loss(autocast: bool) -> Any:
        def inner(theta: Any, c: Any, batch: Any) -> torch.Tensor:
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
                raw = model(theta, problem.x).float()
            return (c * (raw[:, 0] - 1).square()).mean()

        return inner

    def estimate(inner: Any) -> Any:
        batches, outer = Batches([None], None), lambda th, c, b: (model(th, problem.x) + 1).square().mean()
        return hypergradient(inner, outer, model.params, problem.c, batches, sgd(0.2, 0.5), steps=3, memory=memory)

    reference, found = estimate(loss(False)), estimate(Compiled(loss(True), "aot_eager"))
    assert found.grad_c.dtype == torch.float32
    assert float(torch.cosine_similarity(found.grad_c, reference.grad_c, dim=0)) > 0.999
    assert not torch.equal(found.grad_c, reference.grad_c), "autocast must have been in force"

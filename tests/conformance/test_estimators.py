"""Every exact estimator equals finite differences of the whole bilevel map; the others equal what they claim to be."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch

from metaimpute.engine import (
    Batches,
    BilevelMap,
    EstimatorError,
    averaged,
    chain,
    clip,
    clip_by_global_norm,
    clip_norm,
    get_estimator,
    gradient_callback,
    hypergradient,
    masked,
    optimizers,
    partition,
    per_step,
    scheduled,
    sgd,
    sharpness_aware,
)
from metaimpute.engine.optimizers import InnerOptimizer, hyper_tensors
from metaimpute.engine.pytree import detach, dot, tree_map
from metaimpute.engine.replay import Plan, replayed

from .problems import ARCHITECTURES, Case, make_case

pytestmark = pytest.mark.usefixtures("float64")

STEPS = (1, 3, 7)


@dataclasses.dataclass(frozen=True)
class Fixed:
    """A policy with a plan of its own: a kept tail, groups of two and fewer snapshots than groups, as ``auto`` may choose."""

    plan: Plan = dataclasses.field(default_factory=lambda: Plan(group=2, slots=1, tail=2))

    def scan(self, step: Any, carry: Any, steps: int, closure: Any) -> Any:
        return replayed(step, carry, steps, closure, self.plan)


MEMORIES: tuple[Any, ...] = ("store", "checkpoint(2)", "recompute", "revolve(2)", Fixed())
T = torch.tensor


def rules() -> dict[str, Callable[[], InnerOptimizer]]:
    """Every rule with every hyperparameter learnable.

    The adaptive rules have a large eps, so that finite differences are not ruined by gradients that are zero up to rounding
    (a bias before BatchNorm), which a tiny eps would turn into steps of full length.
    """
    return {
        "sgd": lambda: sgd(T(0.3), weight_decay=T(0.05)),
        "momentum": lambda: optimizers.get("momentum")(T(0.3), T(0.8), weight_decay=T(0.05), dampening=T(0.1)),
        "nesterov": lambda: optimizers.get("nesterov")(T(0.3), T(0.8), weight_decay=T(0.05)),
        "adam": lambda: optimizers.get("adam")(T(0.1), (T(0.8), T(0.9)), T(0.05), weight_decay=T(0.05)),
        "adam_amsgrad_root": lambda: optimizers.get("adam")(T(0.1), eps=T(0.02), eps_root=T(0.01), amsgrad=True),
        "adamw": lambda: optimizers.get("adamw")(T(0.1), (T(0.8), T(0.9)), T(0.05), weight_decay=T(0.1)),
        "rmsprop": lambda: optimizers.get("rmsprop")(T(0.05), T(0.9), T(0.05), weight_decay=T(0.05)),
        "rmsprop_centered_momentum": lambda: optimizers.get("rmsprop")(
            T(0.03), T(0.9), T(0.05), momentum=T(0.5), centered=True
        ),
        "adagrad": lambda: optimizers.get("adagrad")(T(0.1), T(0.1), T(0.05), weight_decay=T(0.05)),
        "nadam": lambda: optimizers.get("nadam")(
            T(0.1), (T(0.8), T(0.9)), T(0.05), weight_decay=T(0.05), momentum_decay=T(0.1)
        ),
        "radam": lambda: optimizers.get("radam")(T(0.1), (T(0.8), T(0.9)), T(0.05), weight_decay=T(0.05)),
        "radam_decoupled": lambda: optimizers.get("radam")(
            T(0.1), eps=T(0.05), weight_decay=T(0.05), decoupled_weight_decay=True
        ),
        "adadelta": lambda: optimizers.get("adadelta")(T(0.5), T(0.8), T(0.05), weight_decay=T(0.05)),
        "adamax": lambda: optimizers.get("adamax")(T(0.1), (T(0.8), T(0.9)), T(0.05), weight_decay=T(0.05)),
        "lion": lambda: (
            partition(  # the sign of a gradient that is zero up to rounding (a bias before BatchNorm) is noise
                {"*": optimizers.get("lion")(T(0.05), (T(0.8), T(0.9)), weight_decay=T(0.1)), "*bias": sgd(T(0.2))}
            )
        ),
        "adafactor": lambda: optimizers.get("adafactor")(
            T(0.1), T(-0.7), (T(0.05), T(0.02)), T(1.2), weight_decay=T(0.05)
        ),
        "muon": lambda: optimizers.get("muon")(
            T(0.02),
            T(0.1),
            T(0.8),
            eps=T(0.01),
            ns_coefficients=(T(3.4445), T(-4.775), T(2.0315)),
            ns_steps=2,
            adamw_betas=(T(0.8), T(0.9)),
            adamw_eps=T(0.05),
        ),
        "schedule_free_sgd": lambda: optimizers.get("schedule_free_sgd")(
            T(0.3), T(0.8), weight_decay=T(0.05), warmup_steps=3, r=T(0.5), weight_lr_power=T(1.5)
        ),
        "schedule_free_adamw": lambda: optimizers.get("schedule_free_adamw")(
            T(0.1), (T(0.8), T(0.9)), T(0.05), weight_decay=T(0.05), warmup_steps=2, r=T(0.5)
        ),
        "sam": lambda: optimizers.get("sam")(T(0.2), T(0.8), rho=T(0.1), weight_decay=T(0.05)),
        "sam_adaptive_adam": lambda: sharpness_aware(
            optimizers.get("adam")(T(0.1), eps=T(0.05)), T(0.3), adaptive=True
        ),
        "momentum_per_step": lambda: per_step(
            optimizers.get("momentum")(T(0.3)),
            lr=torch.linspace(0.3, 0.1, 7),
            momentum=[0.9, 0.8, 0.7, 0.8, 0.9, 0.8, 0.7],
        ),
        "adam_masked_transforms": lambda: chain(
            masked(clip_by_global_norm(T(0.2)), "*weight"),
            masked(clip(T(0.05)), lambda name, p: p.ndim == 1),
            gradient_callback(lambda grads: {n: g if g is None else g - g.mean() for n, g in grads.items()}),
            optimizers.get("adam")(T(0.1), eps=T(0.05)),
        ),
        "momentum_averaged": lambda: averaged(optimizers.get("momentum")(T(0.3), T(0.8)), start=1),
        "adam_moving_average": lambda: averaged(optimizers.get("adam")(T(0.1), eps=T(0.05)), T(0.7)),
        "adam_clipped": lambda: clip_norm(optimizers.get("adam")(T(0.1), eps=T(0.05)), T(0.3)),
        "momentum_scheduled": lambda: scheduled(
            optimizers.get("momentum")(T(0.3), T(0.8)), torch.linspace(1.0, 0.4, 7)
        ),
    }


RULES = tuple(rules())


def inner_optimizer(name: str) -> InnerOptimizer:
    return rules()[name]()


def random_direction(tree: Any) -> Any:
    return tree_map(lambda leaf: torch.randn_like(leaf) if leaf.is_floating_point() else leaf, tree)


def moved(tree: Any, direction: Any, step: float) -> Any:
    return tree_map(lambda a, d: a + step * d, tree, direction)


def finite_difference(problem: BilevelMap, which: str, direction: Any, eps: float = 1e-4) -> float:
    """Directional derivative by Richardson-extrapolated central differences, error about eps^4."""

    def value(step: float) -> torch.Tensor:
        if which == "c":
            return problem.value(c=moved(problem.c, direction, step))
        if which == "theta":
            return problem.value(theta_0=moved(problem.theta_0, direction, step))
        hyper = problem.optimizer.hyper
        return problem.value(hyper={**hyper, **moved(hyper_tensors(hyper), direction, step)})

    def slope(h: float) -> torch.Tensor:
        return (value(h) - value(-h)) / (2 * h)

    return float((4 * slope(eps) - slope(2 * eps)) / 3)


def estimate(
    case: Case, optimizer: InnerOptimizer, steps: int, name: Any, memory: Any = "store", **options: Any
) -> Any:
    return hypergradient(
        case.inner, case.outer, case.model.params, case.coupling, case.batches, optimizer, name,
        steps=steps, memory=memory, seed=11, **options,
    )  # fmt: skip


def assert_exact(case: Case, rule: InnerOptimizer, steps: int, results: dict[Any, Any]) -> None:
    """Every result equals finite differences of the whole map along a random direction in each of its arguments."""
    problem = case.bilevel_map(rule, steps)
    fields = {"c": "grad_c", "theta": "grad_theta_0", "hyper": "grad_optimizer"}
    spaces = {"c": case.coupling, "theta": case.model.params, "hyper": hyper_tensors(rule.hyper)}
    for which, field in fields.items():
        direction = random_direction(spaces[which])
        expected = finite_difference(problem, which, direction)
        assert abs(expected) > 1e-6, "the check would be vacuous"
        for name, result in results.items():
            found = getattr(result, field)
            if found is None:
                assert which == "theta", name
                continue
            value = float(dot(found, direction))
            if value == pytest.approx(expected, rel=5e-7, abs=2e-9):
                continue
            # a kink within 1e-4 (a maximum, a clipped norm): only a wrong derivative disagrees at every smaller step too
            closer = [finite_difference(problem, which, direction, eps) for eps in (1e-5, 1e-6, 1e-7)]
            assert any(value == pytest.approx(e, rel=1e-6, abs=1e-8) for e in closer), (name, which, value, closer)


HIGHER = ("sgd", "momentum", "nesterov")


QUICK = ("mlp_dropout", "conv_batchnorm", "tied_unused_frozen")
EVERYWHERE = ("sgd", "momentum", "nesterov", "adam", "adam_amsgrad_root", "adamw", "rmsprop", "rmsprop_centered_momentum", "adagrad",
              "adam_clipped", "momentum_scheduled")  # fmt: skip


def pairs() -> list[Any]:
    """Every architecture with every rule; slow where the net is the largest, and for most rules where it is not a quick one."""

    def quick(architecture: str, rule: str) -> bool:
        if architecture == "hugging_face_bert":
            return rule in ("sgd", "adamw")
        return architecture in QUICK or rule in EVERYWHERE

    return [pytest.param(a, r, marks=() if quick(a, r) else pytest.mark.slow) for a in ARCHITECTURES for r in RULES]


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize(("architecture", "rule"), pairs())
def test_exact_estimators_equal_finite_differences(architecture: str, rule: str, steps: int) -> None:
    case, optimizer = make_case(architecture, steps=steps), inner_optimizer(rule)
    results = {
        "exact": estimate(case, optimizer, steps, "exact"),
        "mixed": estimate(case, optimizer, steps, "mixed"),
        "mixed, labels only": estimate(case, optimizer, steps, "mixed", wrt_start=False),
    }
    assert_exact(case, optimizer, steps, results)
    reference = results["exact"]
    others = [estimate(case, optimizer, steps, "exact", memory=memory) for memory in MEMORIES[1:]]
    if rule in HIGHER:
        others.append(estimate(case, optimizer, steps, "exact", backend="higher"))
    if steps == 3:
        others.append(estimate(case, optimizer, steps, "forward", wrt_start=False))
        others.append(estimate(case, optimizer, steps, "exact", memory="revolve(2)", wrt_start=False))
        others.append(estimate(case, optimizer, steps, "truncated(3)", wrt_start=False))
    for other in [results["mixed"], *others]:
        for field in ("grad_c", "grad_theta_0", "grad_optimizer", "theta_k", "outer_loss"):
            if getattr(other, field) is None:
                continue
            torch.testing.assert_close(getattr(other, field), getattr(reference, field), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("break_it", ["learning_rate", "buffer", "sign", "gradient"])
def test_a_broken_update_rule_is_caught(break_it: str) -> None:
    """The suite can fail: a rule that computes the right step and the wrong derivative does not pass."""
    case, rule = make_case("mlp_dropout", steps=3), inner_optimizer("momentum")

    def broken(grads: Any, state: Any, params: Any, hyper: Any) -> Any:
        if break_it == "learning_rate":
            hyper = {**hyper, "lr": hyper["lr"].detach()}
        if break_it == "buffer":
            state = detach(state)
        if break_it == "gradient":
            grads = detach(grads)
        updates, state = rule.update(grads, state, params, hyper)
        if break_it == "sign":
            updates = tree_map(lambda u: 2 * u.detach() - u if isinstance(u, torch.Tensor) else u, updates)
        return updates, state

    wrong = dataclasses.replace(rule, update=broken)
    for name in ("exact", "mixed"):
        with pytest.raises(AssertionError):
            assert_exact(case, wrong, 3, {name: estimate(case, wrong, 3, name)})


def test_memory_policies_give_the_stored_gradient_to_rounding() -> None:
    case, rule = make_case("transformer_dropout", steps=13), inner_optimizer("adam")
    stored = estimate(case, rule, 13, "exact")
    for memory in ("checkpoint(1)", "checkpoint(5)", "checkpoint(100)", "recompute", "recompute(offload)", "revolve(1)",
                   "revolve(2)", "revolve(3)", "revolve(50)", "auto(90KB)", "auto(120KB)", "auto(1GB)"):  # fmt: skip
        again = estimate(case, rule, 13, "exact", memory=memory)
        for field in ("grad_c", "grad_theta_0", "grad_optimizer", "theta_k"):
            torch.testing.assert_close(
                getattr(again, field), getattr(stored, field), rtol=1e-12, atol=1e-14, msg=memory
            )


def test_split_loss_gives_the_same_label_gradient_without_the_free_part() -> None:
    """The forward-mode route may skip the part of the loss that the labels do not touch."""
    from metaimpute.engine import Split, StructuredLoss

    case, rule = make_case("tied_unused_frozen"), sgd(0.4)
    calls: list[str] = []

    def free(theta: Any, batch: Any) -> torch.Tensor:
        calls.append("free")
        return torch.nn.functional.cross_entropy(case.model(theta, batch[0]), batch[1])

    def coupled(theta: Any, c: Any, batch: Any) -> torch.Tensor:
        calls.append("coupled")
        return 1.5 * ((case.model(theta, batch[2]).softmax(-1) - c["labels"]) ** 2).sum(-1).mean()

    split = StructuredLoss(case.inner, split=Split(free, coupled))
    arguments = (case.outer, case.model.params, case.coupling, case.batches, rule)
    whole = hypergradient(case.inner, *arguments, "exact", wrt_start=False)
    found = hypergradient(split, *arguments, "mixed", wrt_start=False)
    torch.testing.assert_close(found.grad_c, whole.grad_c, rtol=1e-12, atol=1e-14)
    assert calls == ["free", "coupled", "coupled"]


def test_per_parameter_learning_rates_receive_gradients() -> None:
    case = make_case("tied_unused_frozen", steps=3)
    rates = {name: torch.tensor(0.2 + 0.05 * i) for i, name in enumerate(case.model.params)}
    rule = sgd(rates, 0.7)
    exact, mixed = (estimate(case, rule, 3, name) for name in ("exact", "mixed"))
    higher = estimate(case, rule, 3, "exact", backend="higher")
    problem = case.bilevel_map(rule, 3)
    for name in rates:

        def shifted(step: float, name: str = name) -> torch.Tensor:
            return problem.value(hyper={**rule.hyper, "lr": {**rates, name: rates[name] + step}})

        expected = float((shifted(1e-5) - shifted(-1e-5)) / 2e-5)
        for result in (exact, mixed, higher):
            assert float(result.grad_optimizer["lr"][name]) == pytest.approx(expected, rel=1e-6, abs=1e-9)
    assert float(exact.grad_optimizer["lr"]["unused"]) == 0.0


def test_first_order_keeps_the_direct_term_and_the_update_rule_only() -> None:
    """Closed form: with constant inner gradients, d theta_k / d theta_0 = (1 - lr * decay)^k for plain SGD."""
    case, steps = make_case("mlp_dropout", steps=3), 3
    result = estimate(case, sgd(0.3, weight_decay=0.05), steps, "first_order")
    labels = case.coupling["labels"]
    torch.testing.assert_close(result.grad_c["labels"], 0.3 * labels**2, rtol=1e-12, atol=0)
    end = {n: p.requires_grad_() for n, p in result.theta_k.items()}
    problem = case.bilevel_map(sgd(0.3), steps)
    at_end = torch.autograd.grad(problem.outer(end, case.coupling), list(end.values()))
    for slope, (name, found) in zip(at_end, result.grad_theta_0.items(), strict=True):
        torch.testing.assert_close(found, slope * (1 - 0.3 * 0.05) ** steps, rtol=1e-12, atol=1e-14, msg=name)


@pytest.mark.parametrize(
    "optimizer", [pytest.param(r, marks=() if r in ("sgd", "momentum", "adam") else pytest.mark.slow) for r in RULES]
)
@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("architecture", list(ARCHITECTURES))
def test_head_is_exact_for_the_last_layer_problem(architecture: str, steps: int, optimizer: str) -> None:
    """Finite differences of the map in which only the last layer moves; factored and plain losses agree."""
    case, rule = make_case(architecture, steps=steps), inner_optimizer(optimizer)
    names = case.model.head
    frozen = {n: p for n, p in case.model.params.items() if n not in names}
    moving = {n: case.model.params[n] for n in names}
    problem = BilevelMap(
        lambda th, c, b: case.inner({**frozen, **th}, c, b), lambda th, c, b: case.outer({**frozen, **th}, c, b),
        moving, case.coupling, case.batches, rule, steps, seed=11,
    )  # fmt: skip
    plain = hypergradient(
        case.inner, case.outer, case.model.params, case.coupling, case.batches, rule,
        get_estimator("head", parameters=names), steps=steps, seed=11,
    )  # fmt: skip
    direction = random_direction(case.coupling)
    value = float(dot(plain.grad_c, direction))
    assert any(  # the smaller steps are for kinks, as above
        value == pytest.approx(finite_difference(problem, "c", direction, eps), rel=5e-7, abs=2e-9)
        for eps in (1e-4, 1e-5, 1e-6)
    )
    factored = hypergradient(
        case.structured_inner, case.structured_outer, case.model.params, case.coupling, case.batches, rule, "head",
        steps=steps, seed=11,
    )  # fmt: skip
    rebuilt = hypergradient(
        case.structured_inner, case.structured_outer, case.model.params, case.coupling, case.batches, rule, "head",
        steps=steps, seed=11, memory="revolve(2)",
    )  # fmt: skip
    for field in ("grad_c", "grad_theta_0", "grad_optimizer", "theta_k", "outer_loss"):
        torch.testing.assert_close(getattr(factored, field), getattr(plain, field), rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(getattr(rebuilt, field), getattr(plain, field), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("architecture", list(ARCHITECTURES))
def test_approx_is_eq6_and_exact_up_to_a_row_constant_for_cross_entropy(architecture: str) -> None:
    case = make_case(architecture, consistency="cross_entropy", direct=False)
    rule = sgd(0.3)
    arguments = (case.structured_inner, case.structured_outer, case.model.params, case.coupling, case.batches, rule)
    approx = hypergradient(*arguments, "approx", seed=11, wrt_start=False)
    exact = hypergradient(*arguments, "head", seed=11, wrt_start=False)

    def centred(g: Any) -> torch.Tensor:
        return g["labels"] - g["labels"].mean(-1, keepdim=True)

    torch.testing.assert_close(centred(approx.grad_c), centred(exact.grad_c), rtol=1e-10, atol=1e-13)
    assert float(centred(exact.grad_c).norm()) > 1e-5

    # the printed formula, with the kernel formed: eta * sum_h K[h, u] (p*(h) - y(h)), means instead of sums
    model, theta = case.model, {**case.model.params, **approx.theta_k}
    from metaimpute.engine import derive_seed, fixed_rng
    from metaimpute.engine.unroll import OUTER_STREAM

    with torch.no_grad():
        with fixed_rng(derive_seed(11, 0)):
            unlabelled = case.structured_inner.factored.features(case.model.params, case.batches.inner[0])[1]  # type: ignore[misc, operator, union-attr]
        with fixed_rng(derive_seed(11, OUTER_STREAM)):
            holdout = case.structured_outer.factored.features(case.model.params, case.batches.outer)  # type: ignore[misc, operator, union-attr]
        residual = model.readout(theta, holdout).softmax(-1) - torch.nn.functional.one_hot(case.batches.outer[1], 3)
        kernel = holdout @ unlabelled.T + 1
        printed = 0.3 * kernel.T @ (residual / 4) * (1.5 / 5)
    torch.testing.assert_close(approx.grad_c["labels"], printed, rtol=1e-10, atol=1e-13)


def test_squared_error_exact_form_is_eq6_times_the_softmax_jacobian() -> None:
    case = make_case("mlp_dropout", consistency="squared", direct=False)
    arguments = (case.structured_inner, case.structured_outer, case.model.params, case.coupling, case.batches, sgd(0.3))
    approx = hypergradient(*arguments, "approx", seed=11, wrt_start=False).grad_c["labels"]
    exact = hypergradient(*arguments, "head", seed=11, wrt_start=False).grad_c["labels"]
    from metaimpute.engine import derive_seed, fixed_rng

    with torch.no_grad(), fixed_rng(derive_seed(11, 0)):
        found = case.structured_inner.factored.features(case.model.params, case.batches.inner[0])[1]  # type: ignore[misc, operator, union-attr]
        p = case.model.readout(case.model.params, found).softmax(-1)
    jacobian = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    torch.testing.assert_close(exact, 2 * (jacobian @ approx[:, :, None])[..., 0], rtol=1e-10, atol=1e-14)
    assert float(torch.cosine_similarity(exact.flatten(), approx.flatten(), dim=0)) < 0.999


def test_nothing_leaks_into_running_statistics_or_the_callers_tensors() -> None:
    case = make_case("conv_batchnorm", steps=3)
    before = {n: b.clone() for n, b in case.model.buffers.items()}
    params = {n: p.detach().clone() for n, p in case.model.params.items()}
    for name in ("exact", "mixed", "first_order"):
        estimate(case, inner_optimizer("momentum"), 3, name)
    assert all(torch.equal(before[n], b) for n, b in case.model.buffers.items())
    assert all(torch.equal(params[n], p) and p.grad is None for n, p in case.model.params.items())


def test_noise_is_replayed_and_the_global_generator_untouched() -> None:
    case = make_case("transformer_dropout", steps=3)
    state = torch.random.get_rng_state()
    one = estimate(case, inner_optimizer("sgd"), 3, "exact")
    assert torch.equal(state, torch.random.get_rng_state())
    torch.rand(5)
    two = estimate(case, inner_optimizer("sgd"), 3, "exact")
    assert torch.equal(one.grad_c["labels"], two.grad_c["labels"])
    other = hypergradient(
        case.inner, case.outer, case.model.params, case.coupling, case.batches, inner_optimizer("sgd"), seed=12
    )
    assert not torch.allclose(one.grad_c["labels"], other.grad_c["labels"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"estimator": "approx"}, "factored"),
        ({"estimator": "approx", "steps": 3}, "defined for 1 inner step"),
        ({"estimator": "approx", "wrt_start": True}, "path: full"),
        ({"estimator": "head"}, "by name"),
        ({"steps": 0}, "at least 1"),
        ({"steps": 2}, "give 1 or 2"),
        ({"estimator": "mixed", "backend": "higher"}, "backend 'higher' carries out"),
        ({"memory": "checkpoint(2)", "backend": "higher"}, "stores every step"),
        ({"estimator": "mixed", "memory": "recompute"}, "memory 'recompute' is not for it; it is for exact"),
        ({"estimator": "truncated(0)"}, "h to be a whole number of at least 1, not 0"),
        ({"estimator": "truncated(2, 3)"}, "does not take the options"),
        ({"estimator": "truncated(x)"}, "must be numbers"),
        ({"estimator": "truncated", "wrt_start": True}, "path: full"),
        ({"estimator": "forward(3)"}, "15 are asked for"),
        ({"estimator": "forward_gradient(0)"}, "n to be a whole number of at least 1"),
        ({"estimator": "finite_difference(0)"}, "positive epsilon"),
        ({"estimator": "neumann(-1)"}, "at least 0, not -1"),
        ({"estimator": "neumann(2.5)"}, "at least 0, not 2.5"),
        ({"estimator": "cg(0)"}, "at least 1, not 0"),
    ],
)
def test_impossible_requests_say_why(change: dict[str, Any], message: str) -> None:
    case = make_case("mlp_dropout", steps=3)
    arguments = {"estimator": "exact", "steps": 3, "wrt_start": False, **change}
    if arguments["estimator"] == "approx" and arguments["steps"] == 3 and "steps" not in change:
        arguments["steps"] = 1
        case = make_case("mlp_dropout", steps=1)
    with pytest.raises(EstimatorError, match=re.escape(message)):
        hypergradient(case.inner, case.outer, case.model.params, case.coupling, case.batches, sgd(0.1), **arguments)


def test_one_inner_batch_serves_every_step() -> None:
    case = make_case("tied_unused_frozen", steps=1)
    repeated = Batches([case.batches.inner[0]] * 3, case.batches.outer)
    args = (case.inner, case.outer, case.model.params, case.coupling)
    one = hypergradient(*args, case.batches, sgd(0.2), steps=3, seed=1)
    three = hypergradient(*args, repeated, sgd(0.2), steps=3, seed=1)
    torch.testing.assert_close(one.grad_c, three.grad_c)


def test_mistakes_of_a_caller_are_named() -> None:
    from metaimpute.engine import BadMemoryPolicy, NotScalar, UnsupportedOptimizer

    case = make_case("mlp_dropout")
    args = (case.inner, case.outer, case.model.params, case.coupling, case.batches)
    with pytest.raises(EstimatorError, match="whole number, not 2.5"):
        hypergradient(*args, sgd(0.1), steps=2.5)  # type: ignore[arg-type]
    with pytest.raises(BadMemoryPolicy, match="not 3"):
        hypergradient(*args, sgd(0.1), memory=3)  # type: ignore[arg-type]
    with pytest.raises(EstimatorError, match="no floating-point tensor .*int64"):
        hypergradient(case.inner, case.outer, case.model.params, torch.arange(3), case.batches, sgd(0.1))
    with pytest.raises(NotScalar, match=r"inner loss must return a scalar tensor, not shape \[2\]"):
        hypergradient(lambda th, c, b: torch.zeros(2), *args[1:], sgd(0.1))
    with pytest.raises(NotScalar, match="outer loss must return a scalar tensor, not float"):
        hypergradient(case.inner, lambda th, c, b: 1.0, *args[2:], sgd(0.1))  # type: ignore[arg-type,return-value]
    with pytest.raises(UnsupportedOptimizer, match="lr must be a finite number of at least 0, not -0.1"):
        sgd(-0.1)
    structured = (case.structured_inner, case.structured_outer, *args[2:])
    assert hypergradient(*structured, sgd(0.1), "approx").grad_theta_0 is None, (
        "what an estimator lacks is not asked of it"
    )


def test_unroll_leaves_the_callers_tensors_as_they_are() -> None:
    from metaimpute.engine import unroll

    start = {"w": torch.randn(3)}
    unroll(lambda th, c, b: th["w"].square().sum(), start, None, [None], sgd(0.1), 2)
    assert not start["w"].requires_grad

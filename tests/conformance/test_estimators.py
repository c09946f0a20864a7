"""Every exact estimator equals finite differences of the whole bilevel map; the others equal what they claim to be."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from metaimpute.engine import Batches, BilevelMap, EstimatorError, get_estimator, hypergradient, optimizers, sgd
from metaimpute.engine.optimizers import InnerOptimizer
from metaimpute.engine.pytree import dot, tree_map

from .problems import ARCHITECTURES, Case, make_case

pytestmark = pytest.mark.usefixtures("float64")

STEPS = (1, 3, 7)
EXACT = [("exact", "store"), ("exact", "checkpoint(2)"), ("mixed", "store")]


def inner_optimizer(name: str) -> InnerOptimizer:
    """Each rule with weight decay and a learnable learning rate."""
    return optimizers.get(name)(torch.tensor(0.3), weight_decay=0.05)


def random_direction(tree: Any) -> Any:
    return tree_map(lambda leaf: torch.randn_like(leaf) if leaf.is_floating_point() else leaf, tree)


def finite_difference(problem: BilevelMap, which: str, direction: Any, eps: float = 1e-4) -> float:
    """Directional derivative by Richardson-extrapolated central differences, error about eps^4."""

    def value(step: float) -> torch.Tensor:
        if which == "c":
            return problem.value(c=tree_map(lambda a, d: a + step * d, problem.c, direction))
        if which == "theta":
            return problem.value(theta_0=tree_map(lambda a, d: a + step * d, problem.theta_0, direction))
        return problem.value(hyper={**problem.optimizer.hyper, "lr": problem.optimizer.hyper["lr"] + step * direction})

    def slope(h: float) -> torch.Tensor:
        return (value(h) - value(-h)) / (2 * h)

    return float((4 * slope(eps) - slope(2 * eps)) / 3)


def estimate(
    case: Case, optimizer: InnerOptimizer, steps: int, name: str, memory: str = "store", **options: Any
) -> Any:
    return hypergradient(
        case.inner, case.outer, case.model.params, case.coupling, case.batches, optimizer, name,
        steps=steps, memory=memory, seed=11, **options,
    )  # fmt: skip


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "nesterov"])
@pytest.mark.parametrize("architecture", list(ARCHITECTURES))
def test_exact_estimators_equal_finite_differences(architecture: str, optimizer: str, steps: int) -> None:
    case, rule = make_case(architecture, steps=steps), inner_optimizer(optimizer)
    problem = case.bilevel_map(rule, steps)
    results = {pair: estimate(case, rule, steps, *pair) for pair in EXACT}
    results["mixed", "labels only"] = estimate(case, rule, steps, "mixed", wrt_start=False)
    results["higher", "store"] = estimate(case, rule, steps, "exact", backend="higher")
    for which in ("c", "theta", "lr"):
        directions = {"c": random_direction(case.coupling), "theta": random_direction(case.model.params), "lr": 1.0}
        expected = finite_difference(problem, which, directions[which])
        assert abs(expected) > 1e-6, "the check would be vacuous"
        for pair, result in results.items():
            if which == "theta" and pair[1] == "labels only":
                assert result.grad_theta_0 is None
                continue
            found = {
                "c": lambda r=result: dot(r.grad_c, directions["c"]),
                "theta": lambda r=result: dot(r.grad_theta_0, directions["theta"]),
                "lr": lambda r=result: r.grad_optimizer["lr"],
            }[which]()
            assert float(found) == pytest.approx(expected, rel=2e-7, abs=1e-9), (pair, which)


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "nesterov"])
@pytest.mark.parametrize("architecture", list(ARCHITECTURES))
def test_backends_memories_and_sweeps_agree(architecture: str, optimizer: str, steps: int) -> None:
    case, rule = make_case(architecture, steps=steps), inner_optimizer(optimizer)
    reference = estimate(case, rule, steps, "exact")
    others = [
        estimate(case, rule, steps, "exact", memory="checkpoint(1)"),
        estimate(case, rule, steps, "exact", memory="checkpoint(3)"),
        estimate(case, rule, steps, "mixed"),
        estimate(case, rule, steps, "exact", backend="higher"),
    ]
    for other in others:
        for field in ("grad_c", "grad_theta_0", "grad_optimizer", "theta_k", "outer_loss"):
            torch.testing.assert_close(getattr(other, field), getattr(reference, field), rtol=1e-9, atol=1e-11)


def test_recomputed_gradients_are_the_stored_one_to_rounding() -> None:
    case, rule = make_case("transformer_dropout", steps=7), inner_optimizer("momentum")
    stored = estimate(case, rule, 7, "exact")
    for every in (1, 2, 5, 100):
        again = estimate(case, rule, 7, "exact", memory=f"checkpoint({every})")
        assert all(torch.equal(stored.grad_theta_0[n], again.grad_theta_0[n]) for n in stored.grad_theta_0)
        assert torch.equal(stored.grad_c["labels"], again.grad_c["labels"])


def test_split_loss_gives_the_same_label_gradient_without_the_free_part() -> None:
    """The forward-mode route may skip the part of the loss that the labels do not touch."""
    from metaimpute.engine import StructuredLoss

    case, rule = make_case("tied_unused_frozen"), sgd(0.4)
    calls: list[str] = []

    def free(theta: Any, batch: Any) -> torch.Tensor:
        calls.append("free")
        return torch.nn.functional.cross_entropy(case.model(theta, batch[0]), batch[1])

    def coupled(theta: Any, c: Any, batch: Any) -> torch.Tensor:
        calls.append("coupled")
        return 1.5 * ((case.model(theta, batch[2]).softmax(-1) - c["labels"]) ** 2).sum(-1).mean()

    split = StructuredLoss(case.inner, free=free, coupled=coupled)
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


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "nesterov"])
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
    expected = finite_difference(problem, "c", direction)
    assert float(dot(plain.grad_c, direction)) == pytest.approx(expected, rel=2e-7, abs=1e-9)
    factored = hypergradient(
        case.structured_inner, case.structured_outer, case.model.params, case.coupling, case.batches, rule, "head",
        steps=steps, seed=11,
    )  # fmt: skip
    for field in ("grad_c", "grad_theta_0", "grad_optimizer", "theta_k", "outer_loss"):
        torch.testing.assert_close(getattr(factored, field), getattr(plain, field), rtol=1e-10, atol=1e-12)


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
            unlabelled = case.structured_inner.features(case.model.params, case.batches.inner[0])[1]  # type: ignore[misc]
        with fixed_rng(derive_seed(11, OUTER_STREAM)):
            holdout = case.structured_outer.features(case.model.params, case.batches.outer)  # type: ignore[misc]
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
        found = case.structured_inner.features(case.model.params, case.batches.inner[0])[1]  # type: ignore[misc]
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
    ],
)
def test_impossible_requests_say_why(change: dict[str, Any], message: str) -> None:
    case = make_case("mlp_dropout", steps=3)
    arguments = {"estimator": "exact", "steps": 3, "wrt_start": False, **change}
    if arguments["estimator"] == "approx" and arguments["steps"] == 3 and "steps" not in change:
        arguments["steps"] = 1
        case = make_case("mlp_dropout", steps=1)
    with pytest.raises(EstimatorError, match=message.replace("(", "\\(")):
        hypergradient(case.inner, case.outer, case.model.params, case.coupling, case.batches, sgd(0.1), **arguments)


def test_one_inner_batch_serves_every_step() -> None:
    case = make_case("tied_unused_frozen", steps=1)
    repeated = Batches([case.batches.inner[0]] * 3, case.batches.outer)
    args = (case.inner, case.outer, case.model.params, case.coupling)
    one = hypergradient(*args, case.batches, sgd(0.2), steps=3, seed=1)
    three = hypergradient(*args, repeated, sgd(0.2), steps=3, seed=1)
    torch.testing.assert_close(one.grad_c, three.grad_c)

"""Estimators that are not exact equal what they claim to compute, in closed form or by finite differences of that map."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import Tensor

from metaimpute.engine import (
    Batches,
    BilevelMap,
    EstimatorError,
    derive_seed,
    double_differentiable,
    get_estimator,
    hypergradient,
    optimizers,
    sgd,
)
from metaimpute.engine.estimators.forward import DIRECTION_STREAM
from metaimpute.engine.optimizers import apply_updates, hyper_as_leaves, hyper_tensors
from metaimpute.engine.pytree import as_leaves, detach, dot, gradient, norm, tree_map

from .problems import ARCHITECTURES, make_case
from .test_estimators import RULES, estimate, finite_difference, inner_optimizer, random_direction

pytestmark = pytest.mark.usefixtures("float64")
FAST = [name for name in ARCHITECTURES if name != "hugging_face_bert"]


def pairs(*quick: str) -> Any:
    """Every architecture with every rule; all but the quick ones among the slow tests."""
    return pytest.mark.parametrize(
        ("architecture", "rule"),
        [
            pytest.param(a, r, marks=() if a in FAST and r in quick else pytest.mark.slow)
            for a in ARCHITECTURES
            for r in RULES
        ],
    )


@pytest.mark.parametrize("memory", ["store", "revolve(2)"])
@pytest.mark.parametrize("h", [1, 3])
@pairs("sgd", "momentum", "adam")
def test_truncated_is_exact_for_the_map_whose_first_steps_are_frozen(
    architecture: str, h: int, rule: str, memory: str
) -> None:
    steps = 5
    case, optimizer = make_case(architecture, steps=steps), inner_optimizer(rule)
    frozen = detach(case.coupling)
    numbered = Batches(list(enumerate(case.batches.inner)), case.batches.outer)

    def inner(theta: Any, c: Any, batch: Any) -> Tensor:
        return case.inner(theta, c if batch[0] >= steps - h else frozen, batch[1])

    problem = BilevelMap(inner, case.outer, case.model.params, case.coupling, numbered, optimizer, steps, seed=11)
    direction = random_direction(case.coupling)
    expected = finite_difference(problem, "c", direction)
    found = estimate(case, optimizer, steps, f"truncated({h})", memory, wrt_start=False)
    assert float(dot(found.grad_c, direction)) == pytest.approx(expected, rel=1e-6, abs=1e-9)
    assert len(found.diagnostics["inner_losses"]) == steps
    exact = estimate(case, optimizer, steps, "exact")
    torch.testing.assert_close(found.theta_k, exact.theta_k, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(found.first_gradient, exact.first_gradient, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("steps", [1, 3])
@pairs("sgd", "nesterov", "adam", "rmsprop")
def test_finite_difference_tends_to_the_last_steps_gradient(architecture: str, steps: int, rule: str) -> None:
    case, optimizer = make_case(architecture, steps=steps), inner_optimizer(rule)
    if optimizer.stages != (True,):
        with pytest.raises(
            EstimatorError, match="'finite_difference' takes one gradient a step, and a step of .* has 2"
        ):
            estimate(case, optimizer, steps, "finite_difference", wrt_start=False)
        return
    expected = estimate(case, optimizer, steps, "truncated(1)", wrt_start=False)
    found = estimate(case, optimizer, steps, get_estimator("finite_difference", epsilon=1e-4), wrt_start=False)
    torch.testing.assert_close(found.grad_c, expected.grad_c, rtol=1e-5, atol=1e-8)
    torch.testing.assert_close(found.grad_optimizer, expected.grad_optimizer, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(found.theta_k, expected.theta_k, rtol=1e-12, atol=1e-14)
    coarse = estimate(case, optimizer, steps, "finite_difference(0.04)", wrt_start=False)
    finer = estimate(case, optimizer, steps, "finite_difference(0.02)", wrt_start=False)

    def error(result: Any) -> float:
        return float(norm(tree_map(lambda a, b: a - b, result.grad_c, expected.grad_c)))

    assert error(finer) < 0.35 * error(coarse), "the error is of second order in epsilon"


@pairs("momentum", "adamw")
@pytest.mark.parametrize("distribution", ["rademacher", "normal"])
def test_forward_gradient_is_the_exact_slope_along_its_directions(
    architecture: str, rule: str, distribution: str
) -> None:
    case, optimizer = make_case(architecture, steps=3), inner_optimizer(rule)
    exact = estimate(case, optimizer, 3, "exact")
    estimator = get_estimator("forward_gradient", distribution=distribution)
    found = estimate(case, optimizer, 3, estimator)
    rng = torch.Generator().manual_seed(derive_seed(11, DIRECTION_STREAM, 0))
    parts = {"c": exact.grad_c, "hyper": exact.grad_optimizer, "theta": exact.grad_theta_0}
    along = {part: estimator._direction(tree, rng) for part, tree in parts.items()}  # type: ignore[attr-defined]
    slope = sum(dot(parts[part], along[part]) for part in parts)
    for part, result in (("c", found.grad_c), ("hyper", found.grad_optimizer), ("theta", found.grad_theta_0)):
        torch.testing.assert_close(result, tree_map(lambda u: slope * u, along[part]), rtol=1e-9, atol=1e-11)


def test_forward_gradient_is_unbiased_and_reports_its_error() -> None:
    case, optimizer = make_case("tied_unused_frozen"), sgd(0.4)
    exact = estimate(case, optimizer, 1, "exact").grad_c["labels"]
    found = estimate(case, optimizer, 1, "forward_gradient(200)", wrt_start=False)
    error = float(found.diagnostics["standard_error_norm"])
    assert float((found.grad_c["labels"] - exact).norm()) < 2 * error
    assert error < 0.5 * float(exact.norm())


class Quadratic:
    """``L = theta' A theta / 2 - theta' B c``: every estimator has a closed form."""

    def __init__(self) -> None:
        torch.manual_seed(3)
        root = torch.randn(5, 5)
        self.A, self.B = root @ root.T / 5 + torch.eye(5), torch.randn(5, 3)
        self.target, self.c, self.start = torch.randn(5), torch.randn(3), {"w": torch.randn(5)}

    def inner(self, th: Any, c: Any, b: Any) -> Tensor:
        return th["w"] @ self.A @ th["w"] / 2 - th["w"] @ self.B @ c["z"]

    def outer(self, th: Any, c: Any, b: Any) -> Tensor:
        return (th["w"] - self.target).square().sum() / 2 + c["z"].pow(3).sum()

    def estimate(self, estimator: Any, optimizer: Any, steps: int = 400) -> Any:
        return hypergradient(
            self.inner, self.outer, self.start, {"z": self.c}, Batches([None], None), optimizer, estimator, steps=steps,
            wrt_start=False,
        )  # fmt: skip


@pytest.mark.parametrize("estimator", ["cg(5)", "neumann(600)"])
@pytest.mark.parametrize("maximize", [False, True])
@pytest.mark.parametrize("decay", [0.0, 0.7])
def test_implicit_estimators_equal_the_closed_form_at_a_stationary_point(
    estimator: str, decay: float, maximize: bool
) -> None:
    problem = Quadratic()
    learned = torch.tensor(decay)
    rule = sgd(0.2, momentum=0.5, weight_decay=learned, maximize=maximize)
    inner = problem.inner
    if maximize:
        problem.inner = lambda th, c, b: -inner(th, c, b)  # type: ignore[method-assign]
    found = problem.estimate(estimator, rule)
    H = problem.A + decay * torch.eye(5)
    theta = torch.linalg.solve(H, problem.B @ problem.c)
    torch.testing.assert_close(found.theta_k["w"], theta, rtol=1e-10, atol=1e-12)
    x = torch.linalg.solve(H, theta - problem.target)
    torch.testing.assert_close(found.grad_c["z"], problem.B.T @ x + 3 * problem.c**2, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(found.grad_optimizer["weight_decay"], -(x @ theta), rtol=1e-8, atol=1e-10)
    assert float(found.diagnostics["residual"]) < 1e-8
    exact = problem.estimate("exact", rule)
    torch.testing.assert_close(found.grad_c, exact.grad_c, rtol=1e-7, atol=1e-9)


@pairs("sgd", "momentum", "adam")
def test_implicit_estimators_solve_the_dense_system_on_every_architecture(architecture: str, rule: str) -> None:
    """Away from a stationary point too they compute ``direct - x^T d^2 L / dtheta dc`` with the Hessian of the last step."""
    case, optimizer, steps = make_case(architecture, steps=2), inner_optimizer(rule), 2
    reason = optimizer.options.get("not_stationary")
    if reason or optimizer.options.get("decoupled"):
        said = f"and {reason}; take 'exact'" if reason else "decoupled weight decay has none, set it to 0"
        with pytest.raises(EstimatorError, match=re.escape(said)):
            estimate(case, optimizer, steps, "cg", wrt_start=False)
        optimizer = optimizers.get("adamw")(torch.tensor(0.1), eps=0.05, weight_decay=0.0)
    problem = case.bilevel_map(optimizer, steps)
    found = estimate(case, optimizer, steps, "neumann(3, 0.1)", wrt_start=False)
    damped = estimate(
        case, optimizer, steps, get_estimator("cg", m=400, damping=50.0, tolerance=1e-13), wrt_start=False
    )
    names = list(found.theta_k)
    theta = {n: p.detach().requires_grad_() for n, p in found.theta_k.items()}
    c = {"labels": case.coupling["labels"].detach().requires_grad_()}

    def flat(output: Tensor, inputs: list[Tensor], **options: Any) -> Tensor:
        grads = torch.autograd.grad(output, inputs, allow_unused=True, **options)
        return torch.cat(
            [torch.zeros_like(x).flatten() if g is None else g.flatten() for g, x in zip(grads, inputs, strict=True)]
        )

    leaves = list(theta.values())
    with double_differentiable():
        outer = problem.outer(theta, c)
        v, direct = flat(outer, leaves, retain_graph=True), flat(outer, [c["labels"]])
        slope = flat(problem.inner(problem.moves[-1], theta, c), leaves, create_graph=True)
        rows = [
            flat(entry, [*leaves, c["labels"]], retain_graph=True) if entry.requires_grad else None for entry in slope
        ]
    width = v.numel()
    dense = torch.stack([torch.zeros(width + 15) if row is None else row for row in rows])
    H, cross = dense[:, :width], dense[:, width:]
    decay = optimizer.hyper.get("weight_decay", 0.0)
    H = H + float(decay) * torch.eye(width)
    term = total = v
    for _ in range(3):
        term = term - 0.1 * H @ term
        total = total + term
    expected = direct - cross.T @ (0.1 * total)
    torch.testing.assert_close(found.grad_c["labels"].flatten(), expected, rtol=1e-8, atol=1e-10)
    x = torch.linalg.solve(H + 50.0 * torch.eye(width), v)
    torch.testing.assert_close(damped.grad_c["labels"].flatten(), direct - cross.T @ x, rtol=1e-6, atol=1e-9)
    assert names == list(case.model.params)


def assert_rule_alone(problem: BilevelMap, found: Any) -> None:
    """The same of a rule with several stages, call by call."""
    optimizer, start = problem.optimizer, as_leaves(problem.theta_0)
    hyper, c = hyper_as_leaves(optimizer.hyper), as_leaves(problem.c)
    theta, state = start, optimizer.init(start)
    for t in problem.moves:
        at = as_leaves(detach(theta))
        with double_differentiable():
            slopes = gradient(problem.inner(t, at, problem.c), at, unused="none")
        updates, state = optimizer.update(slopes, state, theta, hyper)
        theta = apply_updates(theta, updates)
    with double_differentiable():
        expected = gradient(problem.outer(theta, c), {"c": c, "hyper": hyper_tensors(hyper), "theta": start})
    torch.testing.assert_close(found.grad_c, expected["c"], rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(found.grad_optimizer, expected["hyper"], rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(found.grad_theta_0, expected["theta"], rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(found.theta_k, detach(theta), rtol=1e-12, atol=1e-14)


@pairs("sgd", "momentum", "adam", "adam_clipped")
def test_first_order_is_exact_for_the_map_whose_inner_gradients_are_constants(architecture: str, rule: str) -> None:
    """The gradients met on the way, as slopes of linear losses: what is left is the rule and the outer loss."""
    case, optimizer = make_case(architecture, steps=3), inner_optimizer(rule)
    found = estimate(case, optimizer, 3, "first_order")
    problem = case.bilevel_map(optimizer, 3)
    if optimizer.stages != (True,):
        assert_rule_alone(problem, found)
        return
    slopes, theta, state = [], case.model.params, optimizer.init(detach(case.model.params))
    for t in range(3):
        at = {n: p.detach().requires_grad_() for n, p in theta.items()}
        with double_differentiable():
            loss = problem.inner(t, at, case.coupling)
        slopes.append(dict(zip(at, torch.autograd.grad(loss, list(at.values()), allow_unused=True), strict=True)))
        updates, state = optimizer.update(slopes[-1], state, detach(at), detach(optimizer.hyper))
        theta = apply_updates(detach(at), updates)

    def linear(th: Any, c: Any, batch: Any) -> Tensor:
        return sum((th[name] * g).sum() for name, g in batch.items() if g is not None)  # type: ignore[return-value]

    exact = hypergradient(
        linear, case.outer, case.model.params, case.coupling, Batches(slopes, case.batches.outer), optimizer, "exact",
        steps=3, seed=11,
    )  # fmt: skip
    for field in ("grad_c", "grad_theta_0", "grad_optimizer", "theta_k", "outer_loss"):
        torch.testing.assert_close(getattr(found, field), getattr(exact, field), rtol=1e-10, atol=1e-12, msg=field)


@pairs("sgd", "momentum", "adam", "adam_clipped")
def test_approx_is_head_up_to_a_row_constant_under_every_rule(architecture: str, rule: str) -> None:
    """Eq. 6 is printed for plain gradient descent; any rule's own derivative stands in its learning rate's place."""
    case, optimizer = make_case(architecture, consistency="cross_entropy"), inner_optimizer(rule)
    arguments = (
        case.structured_inner,
        case.structured_outer,
        case.model.params,
        case.coupling,
        case.batches,
        optimizer,
    )
    if optimizer.stages != (True,):
        with pytest.raises(EstimatorError, match="'approx' takes one gradient a step"):
            hypergradient(*arguments, "approx", seed=11, wrt_start=False)
        return
    approx, head = (hypergradient(*arguments, name, seed=11, wrt_start=False) for name in ("approx", "head"))
    rows = {found: result.grad_c["labels"] for found, result in (("approx", approx), ("head", head))}
    centred = {name: g - g.mean(-1, keepdim=True) for name, g in rows.items()}
    torch.testing.assert_close(centred["approx"], centred["head"], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(approx.grad_optimizer, head.grad_optimizer, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(approx.theta_k, head.theta_k, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("m", [0, 1, 4])
def test_neumann_is_its_truncated_series(m: int) -> None:
    problem = Quadratic()
    found = problem.estimate(f"neumann({m})", sgd(0.2))
    v, term = found.theta_k["w"] - problem.target, found.theta_k["w"] - problem.target
    total = v.clone()
    for _ in range(m):
        term = term - 0.2 * problem.A @ term
        total = total + term
    x = 0.2 * total
    torch.testing.assert_close(found.grad_c["z"], problem.B.T @ x + 3 * problem.c**2, rtol=1e-10, atol=1e-12)
    residual = (problem.A @ x - v).norm() / v.norm()
    torch.testing.assert_close(found.diagnostics["residual"], residual, rtol=1e-9, atol=1e-12)
    same = problem.estimate(get_estimator("neumann", m=m, alpha=0.2), sgd({"w": 0.2}))
    torch.testing.assert_close(same.grad_c, found.grad_c)


@pytest.mark.parametrize("estimator", ["cg(40)", "neumann(400)"])
def test_implicit_estimators_equal_a_long_unroll_of_a_convex_problem(estimator: str) -> None:
    """Softmax regression on weighted examples with weight decay, 300 steps of momentum."""
    x, y, x_val, y_val = torch.randn(12, 3), torch.randint(0, 3, (12,)), torch.randn(6, 3), torch.randint(0, 3, (6,))
    cross_entropy = torch.nn.functional.cross_entropy

    def inner(th: Any, weights: Any, b: Any) -> Tensor:
        return (weights * cross_entropy(x @ th["w"], y, reduction="none")).mean()

    def outer(th: Any, weights: Any, b: Any) -> Tensor:
        return cross_entropy(x_val @ th["w"], y_val)

    rule = sgd(1.0, momentum=0.5, weight_decay=torch.tensor(0.2))
    arguments = (inner, outer, {"w": torch.randn(3, 3)}, torch.rand(12), Batches([None], None), rule)
    exact = hypergradient(*arguments, "exact", steps=300, memory="revolve(8)", wrt_start=False)
    found = hypergradient(*arguments, estimator, steps=300, wrt_start=False)
    torch.testing.assert_close(found.grad_c, exact.grad_c, rtol=1e-8, atol=1e-10)
    weight_decay = {key: result.grad_optimizer["weight_decay"] for key, result in (("a", found), ("b", exact))}
    torch.testing.assert_close(weight_decay["a"], weight_decay["b"], rtol=1e-8, atol=1e-10)
    assert float(found.diagnostics["residual"]) < 1e-8


def test_implicit_estimators_say_what_they_cannot_do() -> None:
    problem = Quadratic()
    with pytest.raises(ValueError, match="decoupled weight decay has none"):
        problem.estimate("cg", optimizers.get("adamw")(0.1))
    with pytest.raises(ValueError, match="needs alpha"):
        problem.estimate("neumann", sgd({"w": 0.2}))
    problem.A = -problem.A
    stopped = problem.estimate("cg", sgd(0.01), steps=2)
    assert stopped.diagnostics["negative_curvature"]
    assert problem.estimate("neumann(50)", sgd(0.5), steps=2).diagnostics["series_grows"]


@pytest.mark.parametrize("name", ["exact", "mixed", "truncated(2)", "first_order", "finite_difference", "forward", "neumann(3)",
                                  "cg(3)", "forward_gradient(2)"])  # fmt: skip
def test_every_estimator_reports_losses_norm_and_what_it_dropped(name: str) -> None:
    case = make_case("mlp_dropout", steps=3)
    found = estimate(case, sgd(0.1), 3, name, wrt_start=False)
    assert len(found.diagnostics["inner_losses"]) == 3
    assert found.diagnostics["estimator"] == name.split("(")[0] and found.diagnostics["dropped"]
    torch.testing.assert_close(found.diagnostics["hypergradient_norm"], norm(found.grad_c))
    exact = estimate(case, sgd(0.1), 3, "exact", wrt_start=False)
    torch.testing.assert_close(found.outer_loss, exact.outer_loss, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(found.theta_k, exact.theta_k, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(found.first_gradient, exact.first_gradient, rtol=1e-12, atol=1e-14)

"""L2I's hypergradient with respect to the network, against finite differences of look-ahead hold-out loss."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from metaimpute.batches.outputs import Landmarks, Values
from metaimpute.engine import Batches, BilevelMap, adam, derive_seed, sgd
from metaimpute.engine.pytree import dot, norm, tree_map
from metaimpute.methods import methods
from metaimpute.problems import problems
from metaimpute.streams import Stream

from ..bound import Bound, bind, regression

pytestmark = pytest.mark.usefixtures("float64")

OPTIONS: dict[str, dict[str, Any]] = {
    "fixmatch": {"threshold": 0.35}, "uda": {"tsa": "none"}, "pseudo_label": {"threshold": 0.35},
}  # fmt: skip


def hypergradient(bound: Bound) -> tuple[Any, Any, Any]:
    algorithm = bound.algorithm
    bound.batch = algorithm.prepare(bound.batch)
    return algorithm.lookahead.estimate(bound.batch, bound.holdout)


def lookahead_map(bound: Bound) -> BilevelMap:
    algorithm, settings = bound.algorithm, bound.algorithm.settings
    return BilevelMap(
        algorithm.lookahead.inner, algorithm.lookahead.outer, bound.params, None, Batches([bound.batch], bound.holdout), settings.optimizer,
        settings.steps, settings.memory, derive_seed(algorithm.seed, Stream.ESTIMATE, bound.batch.step),
    )  # fmt: skip


def directional(bound: Bound, path: str, direction: Any, eps: float = 1e-4) -> float:
    problem, algorithm = lookahead_map(bound), bound.algorithm

    def value(step: float) -> torch.Tensor:
        moved = tree_map(lambda p, d: p.detach() + step * d, bound.params, direction)
        labels = algorithm.problem.couple(moved, bound.batch)
        return problem.value(theta_0=moved if path == "full" else bound.params, c=labels)

    def slope(h: float) -> torch.Tensor:
        return (value(h) - value(-h)) / (2 * h)

    return float((4 * slope(eps) - slope(2 * eps)) / 3)


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("path", ["labels", "full"])
@pytest.mark.parametrize("estimator", ["exact", "mixed"])
@pytest.mark.parametrize("method", list(methods))
def test_hypergradient_of_every_method_equals_finite_differences(
    method: str, estimator: str, path: str, steps: int
) -> None:
    bound = bind(method, "l2i", estimator, path=path, steps=steps, method_options=OPTIONS.get(method))
    meta, found, _ = hypergradient(bound)
    assert meta.keys() == bound.params.keys()
    direction = tree_map(torch.randn_like, bound.params)
    expected = directional(bound, path, direction)
    assert abs(expected) > 1e-7, "the hypergradient does not reach the imputer"
    assert float(dot(found, direction)) == pytest.approx(expected, rel=3e-7, abs=1e-10)


@pytest.mark.parametrize("estimator", ["exact", "mixed"])
@pytest.mark.parametrize("method", ["supervised", "pseudo_label", "mean_teacher"])
def test_regression_hypergradient_equals_finite_differences(method: str, estimator: str) -> None:
    bound = bind(method, "l2i", estimator, output=regression(), inner_optimizer=sgd(0.05))
    _, found, _ = hypergradient(bound)
    direction = tree_map(torch.randn_like, bound.params)
    assert float(dot(found, direction)) == pytest.approx(directional(bound, "labels", direction), rel=1e-6, abs=1e-10)


def test_the_unlabelled_inner_loss_leaves_the_labelled_batch_out() -> None:
    bound = bind(inner="unlabelled")
    _, found, _ = hypergradient(bound)
    direction = tree_map(torch.randn_like, bound.params)
    assert float(dot(found, direction)) == pytest.approx(directional(bound, "labels", direction), rel=3e-7)
    _, other, _ = hypergradient(bind(inner="all"))
    assert float(norm(tree_map(torch.sub, found, other))) > 1e-6


@pytest.mark.parametrize("distance", ["method", "squared_error"])
def test_head_estimator_equals_exact_with_a_frozen_body(distance: str) -> None:
    bound = bind("uda", "l2i", "head", method_options=OPTIONS["uda"], problem_options={"distance": distance})
    _, found, result = hypergradient(bound)
    names = bound.algorithm.model.head
    assert result.diagnostics["moved"] == names
    for name, value in result.theta_k.items():
        assert torch.equal(value, bound.params[name]) == (name not in names)
    body = {n: p.detach() for n, p in bound.params.items() if n not in names}
    problem, algorithm = lookahead_map(bound), bound.algorithm
    small = BilevelMap(
        lambda th, c, b: algorithm.lookahead.inner({**body, **th}, c, b), lambda th, c, b: algorithm.lookahead.outer({**body, **th}, c, b),
        {n: bound.params[n].detach() for n in names}, None, problem.batches, problem.optimizer, 1, problem.memory,
        problem.seed,
    )  # fmt: skip
    direction = tree_map(torch.randn_like, bound.params)

    def value(step: float) -> float:
        moved = tree_map(lambda p, d: p.detach() + step * d, bound.params, direction)
        return float(small.value(c=algorithm.problem.couple(moved, bound.batch)))

    expected = (value(1e-4) - value(-1e-4)) / 2e-4
    assert float(dot(found, direction)) == pytest.approx(expected, rel=1e-5, abs=1e-10)


def test_eq6_equals_head_through_a_softmax_imputer_for_cross_entropy() -> None:
    """Eq. 6 differs from the exact last-layer form by a constant per row, which the softmax's Jacobian removes."""
    for method in ("uda", "fixmatch", "pseudo_label"):
        options = OPTIONS[method]
        found = [hypergradient(bind(method, "l2i", name, method_options=options))[1] for name in ("approx", "head")]
        assert float(norm(found[0])) > 1e-8
        torch.testing.assert_close(found[0], found[1], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("problem", ["l2i", "l2i_learnable"])
@pytest.mark.parametrize("method", ["supervised", "pseudo_label", "mean_teacher"])
@pytest.mark.parametrize("output", [regression(), Landmarks(10)], ids=["values", "landmarks"])
def test_approx_equals_head_for_the_squared_error_of_values(output: Values, method: str, problem: str) -> None:
    found = [
        hypergradient(bind(method, problem, name, output=output, inner_optimizer=sgd(0.05)))[2].grad_c
        for name in ("approx", "head")
    ]
    assert float(norm(found[0])) > 1e-8
    torch.testing.assert_close(found[0], found[1], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("rule", [sgd(0.5), adam(0.1)], ids=["sgd", "adam"])
@pytest.mark.parametrize(("method", "distance"), [("mean_teacher", "method"), ("fixmatch", "squared_error")])
def test_approx_equals_head_for_the_squared_error_of_probabilities(method: str, distance: str, rule: Any) -> None:
    """The labels' own gradient, before any imputer; a distance chosen in the recipe counts like the method's."""
    options: dict[str, Any] = {"method_options": OPTIONS.get(method), "problem_options": {"distance": distance}}
    found = [
        hypergradient(bind(method, "l2i", name, inner_optimizer=rule, **options))[2].grad_c
        for name in ("approx", "head")
    ]
    assert float(norm(found[0])) > 1e-8
    torch.testing.assert_close(found[0], found[1], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("base", ["uda", "pseudo_label"])
def test_approx_takes_a_consistency_of_the_methods_own_as_it_is(base: str) -> None:
    """A subclass of a method with cross-entropy that measures something else does not inherit Eq. 6's residual."""

    class Own(type(methods.get(base)())):  # type: ignore[misc]
        def consistency(self, raw: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            return (raw.exp() * (raw.sigmoid() - labels).pow(4)).sum(-1)

    found = []
    for name in ("approx", "head"):
        bound = bind(base, "l2i", name, method_options=OPTIONS[base])
        bound.algorithm.method.__class__ = Own
        found.append(hypergradient(bound)[2].grad_c)
    assert float(norm(found[0])) > 1e-8
    torch.testing.assert_close(found[0], found[1], rtol=1e-10, atol=1e-12)


def test_approx_is_eq6_as_printed_for_cross_entropy_and_kl_divergence() -> None:
    """With the kernel formed: ``eta w sum_h K[h, u] (p*(h) - y(h))``, means instead of sums."""
    for method in ("uda", "fixmatch", "pseudo_label"):
        bound = bind(method, "l2i", "approx", method_options=OPTIONS[method], inner_optimizer=sgd(0.3))
        _, _, result = hypergradient(bound)
        algorithm, batch, holdout = bound.algorithm, bound.batch, bound.holdout
        with torch.no_grad():
            features = algorithm.method.forward(lambda rows: algorithm.model.features(bound.params, rows), batch)[1]
            of_holdout = algorithm.model.features(bound.params, holdout.inputs)
            after = algorithm.model.readout(result.theta_k, of_holdout).softmax(-1)
            residual = (after - torch.nn.functional.one_hot(holdout.targets, 3)) / len(holdout.targets)
            weights = algorithm.method.lookahead_weight(batch.progress) * batch.imputation.weights / len(features)
            printed = 0.3 * weights[:, None] * ((of_holdout @ features.T + 1).T @ residual)
        torch.testing.assert_close(result.grad_c, printed, rtol=1e-10, atol=1e-13)


def test_masked_rows_receive_no_label_gradient() -> None:
    bound = bind("fixmatch", "l2i", "exact", method_options={"threshold": 0.4})
    _, _, result = hypergradient(bound)
    kept = bound.batch.imputation.weights
    assert 0 < float(kept.sum()) < len(kept)
    per_row = result.grad_c.abs().sum(-1)
    assert torch.equal(per_row > 0, kept > 0)


def test_learnable_labels_follow_eq_10() -> None:
    """z* = z - eta_z dC_H/dz on logits that start at psi, then one training step on the moved labels."""
    bound = bind("mean_teacher", "l2i_learnable", "exact", problem_options={"label_lr": 5.0})
    meta, found, result = hypergradient(bound)
    start = bound.algorithm.problem.labels(meta["labels"])
    psi = bound.algorithm.method.psi(bound.algorithm.model, bound.params, bound.batch.unlabelled)
    torch.testing.assert_close(start.detach(), psi.detach(), rtol=1e-9, atol=1e-12)
    moved = bound.algorithm.problem.move(meta, found)
    torch.testing.assert_close(moved["labels"], (meta["labels"] - 5.0 * result.grad_c).detach())
    problem = lookahead_map(bound)
    before, after = problem.value(c=meta["labels"]), problem.value(c=moved["labels"])
    assert float(after) < float(before), "moving the labels along the hypergradient lowers the hold-out loss"


def test_moving_the_network_along_the_hypergradient_lowers_the_lookahead_loss() -> None:
    for method in methods:
        bound = bind(method, "l2i", "exact", method_options=OPTIONS.get(method))
        _, found, _ = hypergradient(bound)
        problem = lookahead_map(bound)
        params = tree_map(torch.detach, bound.params)
        size = 1e-3 / float(norm(found))
        moved = tree_map(lambda p, g, s=size: p - s * g, params, found)
        couple = bound.algorithm.problem.couple
        assert float(problem.value(c=couple(moved, bound.batch))) < float(problem.value(c=couple(params, bound.batch)))


# controls ----------------------------------------------------------------------------------------------------------------


def test_zero_hypergradient_takes_the_second_step_with_zeros() -> None:
    """With momentum the second, zero-gradient step still moves: that is the confound it measures."""

    def momentum(ps: Any) -> Any:
        return torch.optim.SGD(ps, lr=0.1, momentum=0.9)

    base, zero = (bind(problem=p, optimizer=momentum) for p in ("none", "zero_hypergradient"))
    start = {n: p.detach().clone() for n, p in base.params.items()}
    for bound in (base, zero):
        bound.algorithm.step(bound.batch, bound.holdout)
    for name, first in base.params.items():
        step = first - start[name]
        torch.testing.assert_close(zero.params[name] - first, 0.9 * step, rtol=1e-9, atol=1e-12)


def test_random_direction_has_the_hypergradients_norm_and_another_direction() -> None:
    bound = bind(problem="random_direction")
    _, true, _ = hypergradient(bound)
    rng = torch.Generator().manual_seed(0)
    found = bound.algorithm.problem.control(true, bound.params, bound.holdout, rng)
    assert float(norm(found)) == pytest.approx(float(norm(true)), rel=1e-9)
    assert abs(float(dot(found, true) / norm(true) ** 2)) < 0.9


def test_holdout_supervision_is_the_plain_gradient_without_lookahead() -> None:
    bound = bind(problem="holdout_supervision")
    found = bound.algorithm.problem.control(None, bound.params, bound.holdout, torch.Generator())
    raw = bound.algorithm.model(bound.params, bound.holdout.inputs)
    loss = torch.nn.functional.cross_entropy(raw, bound.holdout.targets)
    expected = torch.autograd.grad(loss, list(bound.params.values()))
    for value, (name, slope) in zip(expected, found.items(), strict=True):
        torch.testing.assert_close(slope, value, msg=name)


def test_every_registered_problem_says_what_it_is() -> None:
    assert {"none", "l2i", "l2i_learnable", "zero_hypergradient", "random_direction", "holdout_supervision"} <= set(
        problems
    )
    assert all(problems.summary(name) for name in problems)

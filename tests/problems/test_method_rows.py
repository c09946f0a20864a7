"""Methods that train on other rows than the examples: what estimators and problems learn from ``Method.targets``."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from metaimpute.batches.outputs import Classes
from metaimpute.engine.pytree import norm, tree_map
from metaimpute.methods import methods
from metaimpute.methods.mixup import Mixing
from metaimpute.problems import ProblemError, problems

from ..bound import CLASSES, Bound, bind
from .test_l2i import hypergradient, lookahead_map

pytestmark = pytest.mark.usefixtures("float64")
ADDED = ["pi_model", "mixup", "vat", "mixmatch"]


def with_distance(bound: Bound, distance: str) -> Bound:
    if distance == "cross_entropy":
        bound.algorithm.method.consistency = bound.algorithm.method.output.soft_loss  # type: ignore[method-assign]
    return bound


@pytest.mark.parametrize("distance", ["method", "cross_entropy"])
@pytest.mark.parametrize("inner", ["all", "unlabelled"])
@pytest.mark.parametrize("method", ADDED)
def test_approx_equals_head_on_every_row_whose_label_is_imputed(method: str, inner: str, distance: str) -> None:
    """For MixMatch those are labelled rows too, and every label is a mixture."""
    found = [
        hypergradient(with_distance(bind(method, "l2i", name, inner=inner), distance))[1] for name in ("approx", "head")
    ]
    assert float(norm(found[0])) > 1e-8
    torch.testing.assert_close(found[0], found[1], rtol=1e-10, atol=1e-12)


def test_approx_equals_head_on_mixmatchs_labelled_rows_alone() -> None:
    options: dict[str, Any] = {"method_options": {"weight": 0.0}}
    found = [hypergradient(bind("mixmatch", "l2i", name, **options))[1] for name in ("approx", "head")]
    assert float(norm(found[0])) > 1e-6
    torch.testing.assert_close(found[0], found[1], rtol=1e-10, atol=1e-12)


def test_approx_takes_a_labelled_loss_of_the_methods_own_as_it_is() -> None:
    """Where labelled targets depend on imputed labels, an override of ``labelled_loss`` is not mistaken for cross-entropy."""

    def result(name: str) -> Any:
        bound = bind("mixmatch", "l2i", name, method_options={"weight": 0.0})
        method = bound.algorithm.method
        method.labelled_loss = lambda raw, targets, _: (raw - targets).pow(4).sum()  # type: ignore[method-assign]
        return hypergradient(with_distance(bound, "cross_entropy"))[2].grad_c

    torch.testing.assert_close(result("approx"), result("head"), rtol=1e-10, atol=1e-12)


def test_mixups_labelled_rows_do_not_depend_on_imputed_labels() -> None:
    bound = bind("mixup", "l2i", "approx")
    batch, method = bound.algorithm.prepare(bound.batch), bound.algorithm.method
    c = batch.imputation.labels.clone().requires_grad_()
    known, rows = method.targets(type(batch.imputation)(c, batch.imputation.weights), batch)
    for part, depends in ((known, False), (rows.labels, True)):
        (slope,) = torch.autograd.grad(part.square().sum(), c, retain_graph=True)
        assert bool((slope != 0).any()) is depends


def test_label_rows_are_mixed_labels_with_the_weights_of_their_losses() -> None:
    bound = bind("mixmatch", "l2i", "approx")
    batch, algorithm = bound.algorithm.prepare(bound.batch), bound.algorithm
    c = batch.imputation.labels.clone().requires_grad_()
    found = algorithm.method.forward(lambda inputs: algorithm.model.features(bound.params, inputs), batch)
    rows = algorithm.lookahead.inner.factored.label_rows(c, found, batch)  # type: ignore[union-attr, misc]
    one_hot = torch.nn.functional.one_hot(batch.labelled.targets, 3).to(c)
    torch.testing.assert_close(rows.labels, batch.drawn(torch.cat([one_hot, c, c])))
    torch.testing.assert_close(rows.weights, torch.tensor([1 / 4] * 4 + [75.0 / 10] * 10))
    assert len(rows.features) == 14


@pytest.mark.parametrize("estimator", ["exact", "mixed"])
@pytest.mark.parametrize("part", ["labelled", "unlabelled"])
def test_mixmatchs_hypergradient_flows_through_both_losses(part: str, estimator: str) -> None:
    """Alone, each still has one; without partners across the two batches the labelled loss has none."""
    if part == "unlabelled":
        assert float(norm(hypergradient(bind("mixmatch", "l2i", estimator, inner="unlabelled"))[1])) > 1e-6
        return
    bound = bind("mixmatch", "l2i", estimator, method_options={"weight": 0.0})
    assert float(norm(hypergradient(bound)[1])) > 1e-6
    alone = bind("mixmatch", "l2i", estimator, method_options={"weight": 0.0})
    method, prepare = alone.algorithm.method, alone.algorithm.method.prepare

    def unmixed(*given: Any) -> Any:
        batch = prepare(*given)
        return type(batch)(batch.labelled, batch.unlabelled, batch.progress, batch.step, None,
                           Mixing(batch.drawn.partner, torch.ones_like(batch.drawn.share)))  # fmt: skip

    method.prepare = unmixed  # type: ignore[method-assign]
    assert float(norm(hypergradient(alone)[1])) == 0.0


@pytest.mark.parametrize("estimator", ["exact", "mixed", "forward"])
@pytest.mark.parametrize("method", ADDED)
def test_gradient_of_learnable_labels_equals_finite_differences(method: str, estimator: str) -> None:
    bound = bind(method, "l2i_learnable", estimator)
    meta, found, _ = hypergradient(bound)
    problem, leaf = lookahead_map(bound), meta["labels"].detach()
    direction = torch.randn_like(leaf)

    def slope(eps: float) -> float:
        return float((problem.value(c=leaf + eps * direction) - problem.value(c=leaf - eps * direction)) / (2 * eps))

    expected = (4 * slope(1e-4) - slope(2e-4)) / 3
    assert abs(expected) > 1e-7, "the labels do not reach the look-ahead"
    assert float((found["labels"] * direction).sum()) == pytest.approx(expected, rel=1e-6, abs=1e-11)


@pytest.mark.parametrize("method", ADDED)
def test_the_step_on_moved_labels_trains_on_the_methods_rows(method: str) -> None:
    """``trained_loss`` at psi's own labels is the base step's loss."""
    bound = bind(method, "l2i_learnable", "exact")
    batch = bound.algorithm.prepare(bound.batch)
    problem = bound.algorithm.problem
    leaf = {"labels": bound.algorithm.method.output.to_leaf(batch.imputation.labels)}
    base = bound.algorithm.method.loss(bound.algorithm.model, bound.params, batch)
    assert float(problem.trained_loss(bound.params, leaf, batch).detach()) == pytest.approx(float(base), rel=1e-9)


@pytest.mark.parametrize("method", ADDED)
def test_inner_loss_at_the_base_steps_labels_is_the_base_loss_whole_split_and_factored(method: str) -> None:
    bound = bind(method, "l2i", "exact")
    batch, algorithm = bound.algorithm.prepare(bound.batch), bound.algorithm
    labels, inner, params = batch.imputation.labels, bound.algorithm.lookahead.inner, bound.params
    base = float(algorithm.method.loss(algorithm.model, params, batch))
    assert float(inner(params, labels, batch)) == pytest.approx(base, rel=1e-12)
    assert (inner.split is not None) == (method != "mixmatch")
    if inner.split is not None:
        parts = inner.split.free(params, batch) + inner.split.coupled(params, labels, batch)
        assert float(parts) == pytest.approx(base, rel=1e-12)
    assert inner.factored is not None
    found = inner.factored.features
    rows = tuple(f(params, batch) for f in found) if isinstance(found, tuple) else found(params, batch)
    read = inner.factored.readout(params, rows, labels, batch)
    assert float(read) == pytest.approx(base, rel=1e-12)


@pytest.mark.parametrize("method", ADDED)
def test_the_student_receives_a_gradient_and_under_l2i_the_imputer_does(method: str) -> None:
    bound = bind(method, "l2i", "exact", method_options={"entropy": 0.0} if method == "vat" else None)
    batch, algorithm = bound.algorithm.prepare(bound.batch), bound.algorithm
    assert not batch.imputation.labels.requires_grad
    raw = algorithm.method.forward(lambda inputs: algorithm.model(bound.params, inputs), batch)
    _, rows = algorithm.method.targets(batch.imputation, batch)
    loss = algorithm.method.unlabelled_loss(raw[1], rows.labels, batch.with_imputed(rows))
    student = torch.autograd.grad(loss, list(bound.params.values()), allow_unused=True)
    assert all(g is not None and float(g.norm()) > 1e-6 for g in student)
    _, imputer, _ = hypergradient(bound)
    assert all(float(g.norm()) > 1e-9 for g in tree_map(lambda g: g, imputer).values())


@pytest.mark.parametrize("method", ADDED)
def test_learned_scalars_are_of_the_rows_that_the_method_makes(method: str) -> None:
    """At a mask of one, no prior and no sharpening the inner loss is that of the method on its own labels, at weight one."""
    options = {"learn": ("weight",), "width": 1e-3, "threshold": 1e-3}
    bound = bind(method, "learned_scalars", "exact", problem_options=options)
    problem, batch = bound.algorithm.problem, bound.algorithm.prepare(bound.batch)
    own = problem.method.unsharpened().psi(problem.predict, bound.params, batch.unlabelled).detach()
    batch = batch.with_imputed(replace(batch.imputation, labels=own, weights=torch.ones(len(own), dtype=own.dtype)))
    supervised, losses = problem.parts(bound.params, batch)
    found = problem.inner_loss(bound.params, bound.algorithm.meta, batch)
    torch.testing.assert_close(found, supervised + losses.mean(), rtol=1e-12, atol=0)


@pytest.mark.parametrize("problem", sorted(name for name in problems if not problems.get(name).episodes))
@pytest.mark.parametrize("method", sorted(methods))
def test_every_method_goes_with_every_problem_or_is_refused(method: str, problem: str) -> None:
    """A step leaves finite parameters, or a sentence says why there is none."""
    kind = problems.get(problem)()
    outer = {"outer_optimizer": lambda ps: torch.optim.SGD(ps, lr=0.1)} if kind.learns == "own" else {}
    try:
        kind.check(methods.get(method)().bind(Classes(CLASSES)), Classes(CLASSES))
        bound = bind(method, problem, **outer)
        bound.algorithm.step(bound.batch, bound.holdout)
    except ProblemError:
        return
    assert all(bool(torch.isfinite(p).all()) for p in bound.params.values())

"""L2I through a convex head: the implicit hypergradient is that of the minimum, whatever way led there; options of L2I's look-ahead."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from metaimpute import recipes
from metaimpute.batches.outputs import Values
from metaimpute.engine import Batches, get_estimator, sgd
from metaimpute.engine.pytree import detach, norm
from metaimpute.problems import ProblemError
from metaimpute.problems.l2i_implicit import L2IImplicit
from metaimpute.recipes.shipped import locate
from metaimpute.testing.problems import check_recipe
from metaimpute.training.assemble import assemble, take_step

from ..bound import Bound, bind

OPTIONS: dict[str, Any] = {"problem_options": {"l2": 0.1}}


def solved(bound: Bound, estimator: Any, steps: int = 400) -> Any:
    algorithm = bound.algorithm
    batch, problem, params = algorithm.prepare(bound.batch), algorithm.problem, algorithm.model.params
    return estimator.estimate(
        algorithm.lookahead.inner, algorithm.lookahead.outer, detach(problem.start(params, params)), detach(problem.couple(params, batch)),
        Batches([batch], bound.holdout), sgd(0.5), steps, wrt_start=False,
    )  # fmt: skip


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(("method", "output"), [("uda", None), ("pseudo_label", None), ("mean_teacher", Values(2))])
def test_conjugate_gradients_give_the_hypergradient_of_the_minimum(method: str, output: Any) -> None:
    """A long unroll's is the same, and so are finite differences of the solution."""
    own: dict[str, Any] = {"pseudo_label": {"threshold": 0.0}, "mean_teacher": {"weight": 1.0}}
    bound = bind(method, "l2i_implicit", output=output, method_options=own.get(method), **OPTIONS)
    found = solved(bound, get_estimator("cg", m=60)).grad_c["labels"]
    torch.testing.assert_close(found, solved(bound, get_estimator("exact")).grad_c["labels"], rtol=1e-6, atol=1e-10)
    assert float(norm(found)) > 1e-4
    algorithm, batch = bound.algorithm, bound.algorithm.prepare(bound.batch)
    params = algorithm.model.params
    coupling = detach(algorithm.problem.couple(params, batch))
    direction = torch.randn_like(found)

    def loss(step: float) -> float:
        c = {**coupling, "labels": coupling["labels"] + step * direction}
        result = get_estimator("first_order").estimate(
            algorithm.lookahead.inner, algorithm.lookahead.outer, detach(algorithm.problem.start(params, params)), c,
            Batches([batch], bound.holdout), sgd(0.5), 400, wrt_start=False,
        )  # fmt: skip
        return float(result.outer_loss)

    expected = (loss(1e-4) - loss(-1e-4)) / 2e-4
    assert float((found * direction).sum()) == pytest.approx(expected, rel=1e-5, abs=1e-9)


@pytest.mark.usefixtures("float64")
def test_the_labels_carry_it_to_the_whole_network_and_the_features_do_not() -> None:
    bound = bind("uda", "l2i_implicit", "cg", steps=300, **OPTIONS)
    algorithm = bound.algorithm
    batch = algorithm.prepare(bound.batch)
    estimate = algorithm.lookahead.estimate(batch, bound.holdout)
    assert estimate.result is not None and set(estimate.result.theta_k) == {"2.weight", "2.bias"}
    psi = algorithm.problem.couple(algorithm.model.params, batch)["labels"]
    expected = torch.autograd.grad(psi, list(algorithm.model.params.values()), estimate.result.grad_c["labels"])
    for (name, slope), value in zip(estimate.found.items(), expected, strict=True):
        torch.testing.assert_close(slope, value, msg=name)
    assert all(float(value.norm()) > 0 for value in expected)


def recipe(name: str, *sets: str) -> Any:
    return recipes.load(locate(Path(name)), "sample", ("train.steps=4", "train.log_every=1", *sets))


def test_it_trains_from_its_recipe() -> None:
    chosen = recipe("digits_l2i_implicit", "model={name: mlp, width: 8}", "method.threshold=0")
    parts = assemble(chosen, lambda line: None)
    found = take_step(parts, chosen, 0, measure=True)
    assert float(found["hypergradient_norm"]) > 0 and float(found["holdout_after"]) != float(found["holdout_before"])


def test_its_gradient_passes_the_check_which_says_what_is_held() -> None:
    sets = ("model={name: mlp, width: 8}", "task.labels=20", "train.unlabelled_batch=8", "method.threshold=0")
    report = check_recipe(recipe("digits_l2i_implicit", *sets), steps=3, estimators=["exact"])
    assert {term.name: term.verdict for term in report.terms}["meta"] == "right"
    assert any("known, unknown: held by the objective" in note for note in report.notes)


def test_held_names_what_couple_returns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(L2IImplicit, "held", ("knwon",))
    with pytest.raises(
        ProblemError, match="L2IImplicit.held names 'knwon', and couple returns 'labels', 'known', 'unknown'"
    ):
        check_recipe(recipe("digits_l2i_implicit", "model={name: mlp, width: 8}"), steps=1, estimators=["exact"])


def test_a_start_that_does_not_matter_is_not_differentiated() -> None:
    with pytest.raises(ProblemError, match="l2i_implicit solves for the last layer"):
        assemble(recipe("digits_l2i_implicit", "problem.path=full", "problem.estimator=exact"), lambda line: None)


@pytest.mark.parametrize("sets", [("method={name: mean_teacher}",), ("problem.form=released",)])
def test_a_distance_that_is_not_convex_is_refused(sets: tuple[str, ...]) -> None:
    with pytest.raises(ProblemError, match="needs a distance that is convex in the last layer, a cross-entropy"):
        assemble(recipe("digits_l2i_implicit", *sets), lambda line: None)


@pytest.mark.parametrize("steps", [1, 3])
def test_head_is_exact_for_any_number_of_steps_where_the_head_is_the_network(steps: int) -> None:
    sets = ("model={name: mlp, depth: 0}", "problem.form=ours", "problem.inner={lr: 0.5}", "train.batch=8",
            "train.unlabelled_batch=8", "method={name: uda}")  # fmt: skip
    report = check_recipe(recipe("digits_fixmatch", *sets), steps=steps, estimators=["exact", "head"])
    labels = {term.estimator: term for term in report.terms if term.name == "c" or term.name.startswith("coupling")}
    assert labels["head"].found == pytest.approx(labels["exact"].found, rel=1e-9)
    assert labels["head"].found == pytest.approx(labels["head"].expected, rel=1e-5) and labels["head"].found != 0


@pytest.mark.parametrize("steps", [1, 4])
def test_head_takes_several_steps_from_a_recipe(steps: int) -> None:
    chosen = recipe("digits_fixmatch", "problem.estimator=head", f"problem.inner.steps={steps}", "problem.inner.rate=fixed",
                    "method.threshold=0.0")  # fmt: skip
    parts = assemble(chosen, lambda line: None)
    found = take_step(parts, chosen, 0, measure=True)
    assert float(found["hypergradient_norm"]) > 0

"""Meta pseudo labels: right gradients, the teacher's own loss among them; the student never sees a label."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from metaimpute.engine import sgd
from metaimpute.problems import ProblemError
from metaimpute.problems.meta_pseudo_labels import MetaPseudoLabels
from metaimpute.testing import check_problem

from ..bound import bind, regression

SMALL = ("train.unlabelled_batch=12", "train.threads=1", "task.weak=0.05", "task.strong=0.1")


@pytest.mark.parametrize("options", [{}, {"temperature": 0.5}, {"teacher": "copy"}])
def test_its_gradients_are_those_of_finite_differences(options: dict[str, object]) -> None:
    check_problem(MetaPseudoLabels(**options), recipe="two_moons_meta_pseudo_labels", sets=SMALL)  # type: ignore[arg-type]


def test_the_student_is_trained_on_the_teachers_labels_alone() -> None:
    bound = bind("supervised", "meta_pseudo_labels")
    problem, meta = bound.algorithm.problem, bound.algorithm.meta
    other = replace(bound.batch, labelled=replace(bound.batch.labelled, targets=(bound.batch.labelled.targets + 1) % 3))
    one, two = (problem.trained_loss(bound.params, meta, batch) for batch in (bound.batch, other))
    assert torch.equal(one, two)


def test_a_fresh_teacher_has_weights_of_its_own_and_a_copy_the_networks() -> None:
    for teacher, same in (("fresh", False), ("copy", True)):
        bound = bind("supervised", "meta_pseudo_labels", problem_options={"teacher": teacher})
        meta = bound.algorithm.meta
        assert meta is not None
        assert all(torch.equal(meta[name], p) for name, p in bound.params.items()) == same


@pytest.mark.parametrize("uda", [0.0, 2.0])
def test_of_a_student_that_does_not_move_the_teacher_has_its_own_gradient(uda: float) -> None:
    """Of its loss on the labelled rows, and of the cross-entropy to its own labels, which are targets without a gradient."""
    bound = bind("supervised", "meta_pseudo_labels", problem_options={"uda": uda}, inner_optimizer=sgd(0.0))
    algorithm, meta, batch = bound.algorithm, bound.algorithm.meta, bound.batch
    assert meta is not None
    found = algorithm.lookahead.estimate(batch, bound.holdout).found
    problem = algorithm.problem
    labels = problem.predict(meta, batch.unlabelled.weak).softmax(-1).detach()
    entropy = -(labels * problem.predict(meta, batch.unlabelled.strong).log_softmax(-1)).sum(-1).mean()
    own = torch.autograd.grad(problem.supervised(meta, batch.labelled) + uda * entropy, list(meta.values()))
    assert found is not None
    for name, slope in zip(meta, own, strict=True):
        torch.testing.assert_close(found[name], slope)


def test_values_are_refused() -> None:
    bound = bind("supervised", "hyper_cleaning", output=regression())
    with pytest.raises(ProblemError, match="labels are classes"):
        MetaPseudoLabels().check(bound.algorithm.method, regression())

"""Meta label correction: right gradients, labels that are probabilities, begun at the given ones."""

from __future__ import annotations

import pytest
import torch

from metaimpute.problems import ProblemError
from metaimpute.problems.label_correction import LabelCorrection
from metaimpute.testing import check_problem

from ..bound import bind, regression
from .noisy import SMALL


def test_its_gradients_are_those_of_finite_differences() -> None:
    check_problem(LabelCorrection(width=5), recipe="digits_label_correction", sets=SMALL)


def test_labels_are_probabilities_and_begin_at_the_given_ones() -> None:
    bound = bind("supervised", "label_correction", problem_options={"trust": 50.0})
    labels = bound.algorithm.problem.couple(bound.algorithm.meta, bound.batch)
    torch.testing.assert_close(labels.sum(1), torch.ones(4, dtype=torch.float64))
    assert torch.equal(labels.argmax(1), bound.batch.labelled.targets) and labels.requires_grad


def test_values_are_refused() -> None:
    bound = bind("supervised", "hyper_cleaning", output=regression())
    with pytest.raises(ProblemError, match="corrects classes"):
        LabelCorrection().check(bound.algorithm.method, regression())

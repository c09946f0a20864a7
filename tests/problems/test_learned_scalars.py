"""Learned scalars: right gradients, labels as the equations have them, and a knob that is not learned stays."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from metaimpute.batches.outputs import Values
from metaimpute.engine.pytree import tree_map
from metaimpute.methods import methods
from metaimpute.problems import ProblemError, problems
from metaimpute.testing import check_problem

from ..bound import bind

SCALARS: dict[str, Any] = {"threshold": 0.5, "temperature": 0.7, "width": 0.2}


def scalars(**options: Any) -> Any:
    return problems.get("learned_scalars")(**options)


@pytest.mark.parametrize("method", ["fixmatch", "mean_teacher"])
def test_every_scalar_has_the_gradient_of_finite_differences(method: str) -> None:
    sets = (f"method={{name: {method}}}", "model={name: mlp, width: 8}")
    report = check_problem(scalars(**SCALARS), sets=sets, steps=1)
    for name in ("log_weight", "log_temperature", "threshold_logit", "prior_logits"):
        found = [term for term in report.terms if name in term.name]
        assert {term.estimator for term in found} == {"exact", "mixed", "forward"}
        assert all(term.verdict == "right" and term.found for term in found), report


@pytest.mark.usefixtures("float64")
def test_at_the_start_the_loss_is_fixmatchs_with_soft_labels_and_a_soft_mask() -> None:
    bound = bind("fixmatch", "learned_scalars", problem_options={"threshold": 0.4, "width": 0.1})
    problem, batch = bound.algorithm.problem, bound.batch
    own = bound.algorithm.method.psi(bound.algorithm.model, bound.params, batch.unlabelled).detach()
    labels, weights = problem.labels(bound.algorithm.meta, batch)
    torch.testing.assert_close(labels, own)
    torch.testing.assert_close(weights, ((own.max(-1).values - 0.4) / 0.1).sigmoid())


@pytest.mark.usefixtures("float64")
def test_a_prior_multiplies_and_a_temperature_sharpens() -> None:
    bound = bind("fixmatch", "learned_scalars")
    problem, batch, meta = bound.algorithm.problem, bound.batch, dict(bound.algorithm.meta or {})
    own = bound.algorithm.method.psi(bound.algorithm.model, bound.params, batch.unlabelled).detach()
    prior = torch.tensor([0.2, 0.3, 0.5])
    labels, _ = problem.labels(meta | {"prior_logits": prior.log()}, batch)
    torch.testing.assert_close(labels, own * prior / (own * prior).sum(-1, keepdim=True))
    labels, _ = problem.labels(meta | {"log_temperature": torch.tensor(0.5).log()}, batch)
    torch.testing.assert_close(labels, own.square() / own.square().sum(-1, keepdim=True))


def test_only_what_is_named_is_learned() -> None:
    bound = bind("fixmatch", "learned_scalars", problem_options={"learn": ("threshold", "weight")})
    assert set(bound.algorithm.meta or {}) == {"threshold_logit", "log_weight"}
    values = bind("mean_teacher", "learned_scalars", output=Values(2))
    assert set(values.algorithm.meta or {}) == {"log_weight"}


@pytest.mark.usefixtures("float64")
def test_the_network_trains_at_what_has_been_learned() -> None:
    def gradient(weight: float) -> Any:
        bound = bind("fixmatch", "learned_scalars", problem_options={"consistency_weight": weight, "threshold": 0.1})
        return tree_map(torch.clone, bound.algorithm._base_gradient(bound.algorithm.prepare(bound.batch))[1])

    small, large = gradient(1e-9), gradient(5.0)
    assert all(float((large[name] - small[name]).norm()) > 1e-4 for name in small)


@pytest.mark.parametrize(
    ("options", "output", "said"),
    [
        ({"learn": ()}, None, "learn: name one of weight, temperature, threshold, prior"),
        ({"threshold": 1.0}, None, "threshold: is a confidence between 0 and 1"),
        ({"learn": ("weight", "prior")}, Values(2), "learn: 'prior' is of classes"),
    ],
)
def test_what_cannot_be_learned_is_refused(options: Any, output: Any, said: str) -> None:
    method = methods.get("mean_teacher")()
    with pytest.raises(ProblemError, match=said):
        scalars(**options).check(method, output or method.output)

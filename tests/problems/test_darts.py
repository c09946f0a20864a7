"""DARTS: right gradients in the operations' weights, by Eq. 8 too; what is tested has the weights that were learned."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from metaimpute import recipes
from metaimpute.engine.pytree import cosine, detach, dot
from metaimpute.models import models
from metaimpute.models.mixed_cnn import OPERATIONS, MixedEdge
from metaimpute.problems import ProblemError, problems
from metaimpute.recipes.shipped import locate
from metaimpute.tasks.base import TaskError
from metaimpute.testing import check_problem
from metaimpute.training.assemble import assemble, take_step

SMALL = "model={name: mixed_cnn, width: 3, edges: 2}"


def recipe(*sets: str) -> Any:
    return recipes.load(locate(Path("digits_darts")), "sample", ("train.steps=4", SMALL, *sets))


def test_weights_of_operations_have_the_gradients_of_finite_differences() -> None:
    torch.manual_seed(0)
    report = check_problem(
        problems.get("darts")(spread=0.5), recipe="digits_darts", sets=(SMALL, "train.batch=8", "problem.holdout_batch=8"),
        steps=1, estimators=["exact", "mixed", "forward"],
    )  # fmt: skip
    alphas = [term for term in report.terms if "alpha" in term.name]
    assert {term.estimator for term in alphas} == {"exact", "mixed", "forward"} and len(alphas) == 6
    assert all(term.verdict == "right" and term.found for term in alphas), report


def test_the_papers_finite_difference_is_close_to_the_exact_hypergradient() -> None:
    """In float32, where a difference of gradients has two or three digits."""
    found = []
    for name in ("exact", "finite_difference"):
        algorithm = (parts := assemble(recipe(f"problem.estimator={name}"), lambda line: None)).algorithm
        batch = algorithm.prepare(parts.batches.batch(0))
        found.append(detach(algorithm.lookahead.estimate(batch, parts.batches.holdout(0)).found))
    assert float(cosine(*found)) > 0.98 and float(dot(found[0], found[0])) > 0


def test_an_edge_is_the_mixture_that_eq_2_says() -> None:
    torch.manual_seed(0)
    edge, x = MixedEdge(3, tuple(OPERATIONS)).eval(), torch.randn(2, 3, 4, 4)
    edge.alpha.copy_(torch.randn(len(OPERATIONS)))
    shares = edge.alpha.softmax(0)
    mixed = sum(share * operation(x) for share, operation in zip(shares, edge.operations, strict=True))
    torch.testing.assert_close(edge(x), torch.relu(edge.norm(mixed)))


def test_learned_weights_act_on_the_network_and_are_part_of_what_is_tested() -> None:
    parts = assemble(recipe(), lambda line: None)
    algorithm, names = parts.algorithm, ["2.alpha", "4.alpha"]
    before = {n: p.detach().clone() for n, p in parts.module.named_parameters()}
    for step in range(3):
        take_step(parts, recipe(), step)
    assert list(algorithm.meta or {}) == names and not any(name in algorithm.model.params for name in names)
    assert any(not torch.equal(before[n], p) for n, p in parts.module.named_parameters()), "the network trains too"
    tested = algorithm.lookahead.evaluated(parts.module)
    for name in names:
        assert torch.equal(tested.get_buffer(name), algorithm.meta[name].detach())  # type: ignore[index]
    batch = algorithm.prepare(parts.batches.batch(3))
    slopes = algorithm._base_gradient(batch)[1]
    with torch.no_grad():
        algorithm.meta[names[0]][0] += 5  # type: ignore[index]
    assert not torch.equal(slopes["0.weight"], algorithm._base_gradient(batch)[1]["0.weight"])


def test_a_search_s_choice_is_a_network_of_its_own() -> None:
    network = models.get("mixed_cnn")(width=3, chosen=("conv_3", "skip")).build((1, 8, 8), 10)
    edges = [part for part in network.modules() if isinstance(part, MixedEdge)]
    assert [type(edge.operations[0]) for edge in edges] == [torch.nn.Conv2d, torch.nn.Identity]
    assert network(torch.randn(2, 1, 8, 8)).shape == (2, 10)
    with pytest.raises(TaskError, match="has no operation 'conv_9'"):
        models.get("mixed_cnn")(chosen=("conv_9",)).build((1, 8, 8), 10)


def test_a_network_without_mixed_operations_is_refused() -> None:
    with pytest.raises(ProblemError, match="the network has none; use model mixed_cnn"):
        assemble(recipe("model={name: cnn}"), lambda line: None)

"""Dataset distillation: right gradients in images, rate and labels; what is tested is a network trained on the images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from metaimpute import recipes
from metaimpute.batches.outputs import Values
from metaimpute.engine.pytree import detach
from metaimpute.methods import methods
from metaimpute.problems import ProblemError, problems
from metaimpute.recipes.shipped import locate
from metaimpute.testing import check_problem
from metaimpute.training.assemble import assemble, take_step

SMALL = ("task={name: two_moons}", "model={name: mlp, width: 8}")


def recipe(*sets: str) -> Any:
    return recipes.load(locate(Path("digits_distillation")), "sample", ("train.steps=4", *sets))


@pytest.mark.parametrize("init", ["random", "fixed"])
def test_images_rate_and_labels_have_the_gradients_of_finite_differences(init: str) -> None:
    problem = problems.get("dataset_distillation")(learn_labels=True, init=init)
    torch.manual_seed(0)
    report = check_problem(
        problem, recipe="digits_distillation", sets=("problem.inner={lr: 0.5}", "model={name: mlp, width: 6}"), steps=3,
        estimators=["exact", "mixed"],
    )  # fmt: skip
    names = {term.name for term in report.terms}
    assert all(any(word in name for name in names) for word in ("images", "labels", "hyper")), names
    assert all(t.verdict == "right" and t.found for t in report.terms if t.name != "theta_0"), report


def test_the_network_stays_and_the_images_move() -> None:
    parts = assemble(recipe(), lambda line: None)
    before = detach({n: p.clone() for n, p in parts.module.named_parameters()})
    images = parts.algorithm.meta["images"].detach().clone()  # type: ignore[index]
    losses = [float(take_step(parts, recipe(), step)["loss"]) for step in range(3)]
    assert all(torch.equal(before[n], p) for n, p in parts.module.named_parameters())
    assert float((parts.algorithm.meta["images"] - images).abs().mean()) > 1e-3  # type: ignore[index]
    assert len(set(losses)) == 3


@pytest.mark.parametrize(("init", "same"), [("random", False), ("fixed", True)])
def test_a_random_start_is_drawn_anew_and_a_fixed_one_is_not(init: str, same: bool) -> None:
    algorithm = assemble(recipe(f"problem.init={init}"), lambda line: None).algorithm
    starts = [algorithm.problem.start(algorithm.meta, algorithm.model.params) for _ in range(2)]
    assert all(torch.equal(starts[0][n], starts[1][n]) for n in starts[0]) is same
    assert all(
        starts[0][n].shape == p.shape and not starts[0][n].requires_grad for n, p in algorithm.model.params.items()
    )


def test_what_is_tested_has_taken_the_inner_steps_on_the_images() -> None:
    algorithm = (parts := assemble(recipe("problem.inner={lr: 0.1, steps: 2}"), lambda line: None)).algorithm
    meta, rate = algorithm.meta, 0.1
    params = {n: p.detach().requires_grad_() for n, p in parts.module.named_parameters()}
    for _ in range(2):
        loss = algorithm.problem.inner_loss(params, algorithm.problem.couple(detach(meta), None), None)
        slopes = torch.autograd.grad(loss, list(params.values()))
        params = {n: (p - rate * g).detach().requires_grad_() for (n, p), g in zip(params.items(), slopes, strict=True)}
    with torch.inference_mode():
        found = dict(algorithm.lookahead.evaluated(parts.module).named_parameters())
    for name, value in params.items():
        torch.testing.assert_close(found[name], value)


def test_what_has_no_classes_or_no_new_start_is_refused() -> None:
    problem: Any = problems.get("dataset_distillation")()
    with pytest.raises(ProblemError, match="a task of values has none"):
        problem.check(methods.get("supervised")(), Values(1))

    class Odd(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.p = torch.nn.Parameter(torch.zeros(2))

    network = torch.nn.Sequential(Odd())
    context: Any = type("Context", (), {"model": type("Model", (), {"module": network})})
    with pytest.raises(ProblemError, match="init: '0' of the network cannot be drawn anew; use init: fixed"):
        problem.bind(context)

"""MAML, ANIL and Meta-SGD: gradients of the whole map over several tasks, and tests that adapt before they answer."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from metaimpute import recipes
from metaimpute.batches.episodes import EpisodeClasses, EpisodeValues
from metaimpute.engine import EstimatorError
from metaimpute.engine.pytree import detach
from metaimpute.problems import ProblemError
from metaimpute.recipes.shipped import locate
from metaimpute.recipes.source import RecipeError
from metaimpute.tasks.base import MissingData
from metaimpute.tasks.few_shot import FewShotDigits, FewShotImages
from metaimpute.testing.problems import check_recipe
from metaimpute.training.assemble import Parts, assemble, take_step
from metaimpute.training.session import Session

WAVES = (
    "task={name: sinusoid, shots: 4, queries: 3, labels: 40, test: 7}",
    "model={name: mlp, width: 5, depth: 1}",
    "train.batch=3",
)
DIGITS = ("task={name: few_shot_digits, labels: 20, test: 5}", "model={name: mlp, width: 6, depth: 1}", "train.batch=3")
RECIPES = {"maml": "sinusoid_maml", "anil": "digits_anil", "meta_sgd": "sinusoid_meta_sgd"}


def recipe(name: str, *sets: str, data: tuple[str, ...] = WAVES) -> Any:
    return recipes.load(locate(Path(RECIPES[name])), "sample", ("train.steps=3", *data, *sets))


def assembled(name: str, *sets: str, data: tuple[str, ...] = WAVES) -> Parts:
    return assemble(recipe(name, *sets, data=data), lambda line: None)


@pytest.mark.parametrize("data", [WAVES, DIGITS], ids=["waves", "digits"])
@pytest.mark.parametrize("name", RECIPES)
def test_gradients_are_those_of_finite_differences(name: str, data: tuple[str, ...]) -> None:
    torch.manual_seed(0)
    report = check_recipe(recipe(name, "problem.inner.lr=0.2", data=data), steps=2, estimators=["exact", "mixed"])
    assert all(term.verdict == "right" and term.found for term in report.terms), report


@pytest.mark.parametrize("name", RECIPES)
def test_the_start_moves_along_the_gradient_of_the_mean_over_tasks(name: str) -> None:
    """Task by task and by hand: what a training step moves the start along."""
    parts = assembled(name, "problem.inner.steps=2")
    algorithm, batch, holdout = parts.algorithm, parts.batches.batch(0), parts.batches.holdout(0)
    found = algorithm.lookahead.estimate(algorithm.prepare(batch), holdout).found
    found = {n.removeprefix("start."): g for n, g in found.items() if not n.startswith("scale.")}
    params = {n: p.detach().clone().requires_grad_() for n, p in algorithm.model.params.items()}
    rate, inner, total = algorithm.settings.optimizer.hyper["lr"], dict(batch.labelled.inputs), 0.0  # type: ignore[call-overload]
    moving = algorithm.problem.moving()  # type: ignore[attr-defined]
    for i in range(3):
        own: Any = dict(params)
        for _ in range(2):
            loss = (algorithm.model(own, inner["support"][i]) - inner["given"][i]).square().mean()
            slopes = torch.autograd.grad(loss, [own[n] for n in moving], create_graph=True)
            own |= {n: own[n] - rate * g for n, g in zip(moving, slopes, strict=True)}
        total = total + (algorithm.model(own, inner["query"][i]) - holdout.targets[i]).square().mean() / 3
    for (n, p), g in zip(params.items(), torch.autograd.grad(total, list(params.values())), strict=True):  # type: ignore[arg-type]
        torch.testing.assert_close(found[n], g, rtol=2e-4, atol=1e-6, msg=n)
        assert p.shape == g.shape


def test_query_sets_are_of_the_batchs_own_episodes() -> None:
    parts = assembled("maml")
    for step in (0, 5):
        batch, holdout = parts.batches.batch(step), parts.batches.holdout(step)
        assert torch.equal(batch.labelled.index, holdout.index) and torch.equal(batch.labelled.targets, holdout.targets)


@pytest.mark.parametrize("name", RECIPES)
def test_a_test_adapts_and_leaves_the_network_as_it_is(name: str) -> None:
    parts = assembled(name, "problem.test_steps=2")
    before = detach({n: p.clone() for n, p in parts.module.named_parameters()})
    rows = parts.data.test
    inputs: Any = parts.batches.task.view(rows.take(torch.arange(7)), "none", torch.Generator())
    network = parts.algorithm.lookahead.evaluated(parts.module)
    with torch.inference_mode():
        found = network(inputs)
    assert found.shape == (7, 3, 1)
    assert all(torch.equal(before[n], p) for n, p in parts.module.named_parameters())
    assert set(network.state_dict()) == set(parts.module.state_dict())
    params: Any = {n: p.detach().clone().requires_grad_() for n, p in parts.module.named_parameters()}
    rate, moving = parts.algorithm.settings.optimizer.hyper["lr"], parts.algorithm.problem.moving()  # type: ignore[attr-defined]
    for _ in range(2):  # the fifth episode by itself
        loss = (parts.algorithm.model(params, inputs["support"][4]) - inputs["given"][4]).square().mean()
        slopes = torch.autograd.grad(loss, [params[n] for n in moving])
        params |= {n: (params[n] - rate * g).detach().requires_grad_() for n, g in zip(moving, slopes, strict=True)}
    torch.testing.assert_close(
        found[4].clone(), parts.algorithm.model(params, inputs["query"][4]).detach(), rtol=1e-4, atol=1e-5
    )


def test_anil_moves_the_last_layer_alone_and_meta_sgd_learns_rates() -> None:
    anil = assembled("anil", data=DIGITS)
    assert set(anil.algorithm.problem.start(anil.algorithm.model.params, anil.algorithm.model.params)) == {
        "3.weight",
        "3.bias",
    }
    meta = assembled("meta_sgd")
    for step in range(3):
        take_step(meta, recipe("meta_sgd"), step)
    scales = [v for n, v in (meta.algorithm.meta or {}).items() if n.startswith("scale.")]
    assert all(float((v - 1).abs().max()) > 0 for v in scales)
    assert all(not torch.equal(p, meta.algorithm.meta[f"start.{n}"]) for n, p in meta.algorithm.model.params.items())  # type: ignore[index]


def test_a_run_is_measured_logged_and_resumed_like_any_other(tmp_path: Path) -> None:
    for name, data in (("maml", WAVES), ("anil", DIGITS), ("meta_sgd", WAVES)):
        result = Session(recipe(name, "train.log_every=1", data=data), tmp_path / name, say=lambda line: None).run()
        assert result["steps"] == 3 and result["test_last"] > 0


@pytest.mark.parametrize(
    ("name", "sets", "said"),
    [
        (
            "maml",
            ("problem={name: l2i}",),
            "task 'sinusoid' gives episodes, support and query sets, which 'l2i' does not learn",
        ),
        ("maml", ("problem={name: none}",), "which 'none' does not learn from; these do: anil, maml, meta_sgd"),
        (
            "maml",
            ("task={name: two_moons}",),
            "task 'two_moons' gives examples, not episodes, which 'maml' does not learn from",
        ),
        ("maml", ("problem.schedule=fused",), "'maml' has no base step to go with it; leave schedule out"),
    ],
)
def test_what_does_not_go_together_is_refused(name: str, sets: tuple[str, ...], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        recipe(name, *sets)


def test_a_detached_start_and_a_rule_that_mixes_tasks_are_refused() -> None:
    with pytest.raises(ProblemError, match="maml learns where the inner steps start; write problem.path: full"):
        assembled("maml", "problem.path=labels")
    parts = assembled("maml", "problem.inner.clip_norm=1")
    with pytest.raises((EstimatorError, ValueError), match="clip"):
        take_step(parts, recipe("maml"), 0)


def test_losses_and_errors_of_episodes() -> None:
    raw, targets = torch.randn(4, 6, 3), torch.randint(0, 3, (4, 6))
    expected = torch.nn.functional.cross_entropy(raw.flatten(0, 1), targets.flatten(), reduction="none").view(4, 6)
    torch.testing.assert_close(EpisodeClasses(3).loss(raw, targets), expected)
    wrong = (raw.argmax(-1) != targets).float().mean(1)
    torch.testing.assert_close(EpisodeClasses(3).error(raw, targets), 100 * wrong)
    values, true = torch.randn(4, 6, 1), torch.randn(4, 6, 1)
    torch.testing.assert_close(EpisodeValues(1).error(values, true), (values - true).square().mean((1, 2)))


def test_episodes_of_digits_are_of_their_classes_and_new_ones_in_the_test() -> None:
    task = FewShotDigits(labels=30, test=20, shots=2, queries=3)
    data = task.load(0)
    from sklearn.datasets import load_digits

    labels = torch.tensor(load_digits().target)
    for pool, own in ((data.labelled, set(range(6))), (data.test, set(range(6, 10)))):
        found = labels[pool.inputs]  # type: ignore[index]
        assert bool((found == found[..., :1]).all()) and set(found.unique().tolist()) <= own
        assert all(len(set(row[:, 0].tolist())) == 3 for row in found)
        assert all(len(set(row.flatten().tolist())) == 15 for row in pool.inputs), "no image twice in an episode"
    view: Any = task.view(data.labelled.inputs[:4], "none", torch.Generator())  # type: ignore[index]
    assert view["support"].shape == (4, 6, 1, 8, 8) and view["query"].shape == (4, 9, 1, 8, 8)
    assert view["given"][0].tolist() == [0, 0, 1, 1, 2, 2] and data.labelled.targets[0].tolist() == [
        0,
        0,
        0,
        1,
        1,
        1,
        2,
        2,
        2,
    ]  # type: ignore[index]
    assert torch.equal(task.load(0).test.inputs, task.load(1).test.inputs)  # type: ignore[arg-type]
    assert not torch.equal(task.load(0).labelled.inputs, task.load(1).labelled.inputs)  # type: ignore[arg-type]


def test_folders_of_images_are_read_by_class(tmp_path: Path) -> None:
    for part, shades in (("train", range(0, 80, 20)), ("test", range(100, 180, 20))):
        for shade in shades:
            (tmp_path / part / f"c{shade}").mkdir(parents=True)
            for number in range(3):
                Image.new("RGB", (9, 7), (shade, shade, shade)).save(tmp_path / part / f"c{shade}" / f"{number}.png")
    task = FewShotImages(folder=str(tmp_path), side=6, labels=5, test=4, ways=3, shots=1, queries=2)
    task.check()
    data = task.load(0)
    view: Any = task.view(data.test.inputs, "none", torch.Generator())
    assert task.input_shape == (1, 6, 6) and view["query"].shape == (4, 6, 1, 6, 6)
    assert float(view["support"].min()) >= 100 / 255 and float(view["support"].max()) <= 160 / 255 + 1e-6
    with pytest.raises(MissingData, match="few-shot images"):
        dataclasses.replace(task, folder=str(tmp_path / "none")).load(0)

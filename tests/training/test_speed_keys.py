"""``train.precision``, ``compile`` and ``channels_last`` in a recipe: what runs, what a checkpoint keeps, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from metaimpute.recipes.recipe import Recipe, load
from metaimpute.recipes.shipped import locate
from metaimpute.recipes.source import RecipeError
from metaimpute.training.finite import Diverged, Finite
from metaimpute.training.session import Session

SMALL = ("train.steps=6", "train.batch=6", "train.unlabelled_batch=16", "train.eval_every=6", "train.log_every=3",
         "train.checkpoint_every=3", "train.device=cpu")  # fmt: skip


def recipe(*sets: str) -> Recipe:
    return load(locate(Path("two_moons")), "sample", (*SMALL, *sets))


def run(folder: Path, *sets: str) -> Session:
    session = Session(recipe(*sets), folder, say=lambda line: None)
    session.run()
    return session


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_run_in_low_precision_resumes_to_the_bit(precision: str, tmp_path: Path) -> None:
    whole = run(tmp_path / "whole", f"train.precision={precision}")
    cut = Session(recipe(f"train.precision={precision}"), tmp_path / "cut", say=lambda line: None)
    cut.report = lambda step, values: cut.stop() if step == 3 else None
    with pytest.raises(Exception, match="stopped at step 3"):
        cut.run()
    again = Session(recipe(f"train.precision={precision}"), tmp_path / "cut", say=lambda line: None)
    again.resume()
    again.run()
    for name, leaf in whole.weights().items():
        assert torch.equal(leaf, again.weights()[name]), name
    assert {n: s.state() for n, s in whole.algorithm.scales.items()} == {
        n: s.state() for n, s in again.algorithm.scales.items()
    }
    assert len(whole.algorithm.scales) == (2 if precision == "fp16" else 0)


def test_float32_is_what_it_was_and_low_precision_is_not(tmp_path: Path) -> None:
    plain, named = run(tmp_path / "a"), run(tmp_path / "b", "train.precision=float32")
    low = run(tmp_path / "c", "train.precision=bf16")
    for name, leaf in plain.weights().items():
        assert torch.equal(leaf, named.weights()[name])
    assert any(not torch.equal(leaf, low.weights()[name]) for name, leaf in plain.weights().items())


def test_a_run_in_float16_tells_what_it_left_out(tmp_path: Path) -> None:
    said: list[str] = []
    session = Session(recipe("train.precision=fp16"), tmp_path / "run", say=said.append)
    for scale in session.algorithm.scales.values():
        scale.value.fill_(2.0**60)
    session.run()
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert lines[0]["skipped_updates"] == 6 and lines[0]["loss_scale"] == 2.0**57
    assert any(line.startswith("note: 12 updates were left out, whose gradients were not finite") for line in said)


def test_a_run_that_looks_late_names_the_step_and_keeps_the_checkpoints_before_it(tmp_path: Path) -> None:
    session = Session(recipe("train.optimizer.fused=true", "train.log_every=6"), tmp_path, say=lambda line: None)
    algorithm = session.algorithm
    algorithm.finite = algorithm.lookahead.finite = Finite(torch.device("cpu"), waits=True)
    loss = algorithm.method.loss
    at = {"step": -1}

    def spoilt(predict: Any, params: Any, batch: Any) -> torch.Tensor:
        at["step"] = batch.step
        return loss(predict, params, batch) * (torch.nan if batch.step >= 4 else 1.0)

    algorithm.method.loss = spoilt  # type: ignore[method-assign]
    with pytest.raises(Diverged, match="^base loss is nan at step 4; last good checkpoint: .*3"):
        session.run()
    assert at["step"] == 5, "the step after it was taken before the run looked"
    assert json.loads((tmp_path / "diverged.json").read_text())["step"] == 4


@pytest.mark.parametrize(
    ("sets", "key", "said"),
    [
        (("train.precision=half",), "train.precision", "'float32', 'bf16' or 'fp16'"),
        (("train.precision=bf16", "problem.estimator=finite_difference"), "train.precision", "takes differences of numbers"),
        (("train.precision=fp16", "problem.estimator=cg(3)"), "train.precision", "in its Hessian; take exact or mixed, or bf16"),
        (("train.compile=true", "problem.schedule=fused"), "train.compile", "take algorithm1"),
        (("train.compile=true", "problem.estimator=exact", "problem.memory=auto(1GB)"), "train.compile", "cannot measure inside"),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_refused_at_its_key(sets: tuple[str, ...], key: str, said: str) -> None:
    with pytest.raises(RecipeError, match=key) as caught:
        recipe(*sets)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_channels_last_lays_convolutions_out_and_changes_no_number_beyond_rounding() -> None:
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(144, 2))
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    before = net(x)
    net.to(memory_format=torch.channels_last)
    torch.testing.assert_close(net(x), before, rtol=1e-4, atol=1e-5)

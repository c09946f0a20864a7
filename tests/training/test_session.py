"""Runs from recipe to result: records, resumption bit for bit, interruption, divergence."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from metaimpute import recipes
from metaimpute.cli import main
from metaimpute.recipes.source import RecipeError
from metaimpute.rundir import checkpoint
from metaimpute.training.alarms import Alarms
from metaimpute.training.finite import Diverged
from metaimpute.training.session import Interrupted, Session

RECIPE = """
task: {name: two_moons, labels: 4, validation: 20, size: 200}
model: {name: mlp, width: 8, depth: 2, dropout: 0.1}
method: {name: mean_teacher, weight: 5}
problem: {name: PROBLEM, estimator: mixed, inner: {lr: 0.1}}
train: {steps: 30, batch: 6, unlabelled_batch: 16, optimizer: {name: adam, lr: 0.01}, ema: 0.99, eval_every: 10,
        checkpoint_every: 7, log_every: 5, schedule: {name: cosine, warmup: 3}, threads: 1}
"""


def write_recipe(folder: Path, problem: str = "l2i") -> Path:
    path = folder / "small.yaml"
    path.write_text(RECIPE.replace("PROBLEM", problem))
    return path


def session(path: Path, folder: Path, *sets: str) -> Session:
    return Session(recipes.load(path, "sample", sets), folder, say=lambda message: None)


def same(left: dict[str, Any], right: dict[str, Any]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[n], right[n]) for n in left)


@pytest.mark.parametrize(
    "options", [(), ("problem.outer_optimizer=separate",), ("problem.schedule=fused", "problem.scale=relative(1)")]
)
@pytest.mark.parametrize("problem", ["none", "l2i", "l2i_learnable", "random_direction"])
def test_resuming_gives_the_same_weights_bit_for_bit(tmp_path: Path, problem: str, options: tuple[str, ...]) -> None:
    if problem == "l2i_learnable" and options and "fused" in options[0]:
        pytest.skip("refused at check time")
    recipe = write_recipe(tmp_path, problem)
    whole = session(recipe, tmp_path / "whole", *options)
    whole.run()

    first = session(recipe, tmp_path / "cut", *options)
    original = first._one_step

    def stop_after(log: Any) -> None:
        original(log)
        if first.step == 17:
            first._stop = True

    first._one_step = stop_after  # type: ignore[method-assign]
    with pytest.raises(Interrupted, match="stopped at step 17"):
        first.run()
    torch.rand(100)
    second = session(recipe, tmp_path / "cut", *options)
    second.resume()
    assert second.step == 17
    second.run()
    assert same(whole.weights(), second.weights())
    assert same(dict(whole.evaluated_module().state_dict()), dict(second.evaluated_module().state_dict()))
    lines = [(tmp_path / run / "metrics.jsonl").read_text() for run in ("whole", "cut")]
    assert lines[0] == lines[1]
    results = [json.loads((tmp_path / run / "result.json").read_text()) for run in ("whole", "cut")]
    assert results[0]["evaluations"] == results[1]["evaluations"]


def test_a_killed_process_resumes_to_the_same_weights(tmp_path: Path) -> None:
    """kill -9 at a random moment; the run goes on from its last checkpoint."""
    recipe = write_recipe(tmp_path)
    slow = ["--set", "train.steps=400", "--set", "train.checkpoint_every=20"]
    command = ["run", str(recipe), *slow, "--out"]
    assert CliRunner().invoke(main, [*command, str(tmp_path / "whole")]).exit_code == 0
    killed = tmp_path / "killed"
    words = [sys.executable, "-m", "metaimpute", *command, str(killed)]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not checkpoint.existing(killed) and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(random.Random(os.getpid()).uniform(0.0, 1.5))  # before the first regular checkpoint, or after it
    process.kill()
    process.wait()
    assert not (killed / "result.json").exists(), "the run ended before it was killed; nothing was tested"
    done = CliRunner().invoke(main, ["run", "--resume", str(killed)])
    assert done.exit_code == 0 and "resumed from step-" in done.stderr
    states = [checkpoint.latest(tmp_path / run)[0] for run in ("whole", "killed")]
    assert states[0]["step"] == states[1]["step"] == 400
    assert same(states[0]["model"], states[1]["model"]) and same(states[0]["averaged"], states[1]["averaged"])


def test_sigterm_writes_a_checkpoint_and_exits_130(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path)
    folder = tmp_path / "run"
    command = [
        sys.executable,
        "-m",
        "metaimpute",
        "run",
        str(recipe),
        "--set",
        "train.steps=100000",
        "--out",
        str(folder),
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not checkpoint.existing(folder) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "continue with --resume" in errors and "Traceback" not in errors
    step = checkpoint.latest(folder)[0]["step"]
    assert f"stopped at step {step}" in errors


def test_damaged_and_missing_checkpoints(tmp_path: Path) -> None:
    run = session(write_recipe(tmp_path), tmp_path / "run")
    run.run()
    paths = checkpoint.existing(run.folder)
    assert len(paths) == 2
    paths[-1].write_bytes(paths[-1].read_bytes()[:100])
    state, path, skipped = checkpoint.latest(run.folder)
    assert path == paths[0] and state["step"] == 28
    assert len(skipped) == 1 and paths[-1].name in skipped[0]
    paths[0].write_bytes(b"")
    with pytest.raises(checkpoint.NoCheckpoint, match="no readable checkpoint"):
        checkpoint.latest(run.folder)


def test_records_of_a_run(tmp_path: Path) -> None:
    run = session(write_recipe(tmp_path), tmp_path / "run")
    result = run.run()
    assert {p.name for p in (tmp_path / "run").iterdir()} == {
        "checkpoints", "labels.jsonl", "metrics.jsonl", "model.safetensors", "recipe.resolved.yaml", "result.json", "run.lock", "task.json", "tensorboard", "tested.json",
    }  # fmt: skip
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert {
        "holdout_before",
        "holdout_after",
        "hypergradient_norm",
        "cosine",
        "mask_rate",
        "imputed_accuracy",
        "lr",
    } <= set(lines[0])
    assert [line["step"] for line in lines if "test_error" in line] == [10, 20, 30]
    assert result["test_checkpoints"] == 3 and result["steps"] == 30 and result["seed"] == 0
    errors = sorted(e["test_error"] for e in result["evaluations"])
    assert result["test_median"] == errors[1] and result["test_last"] == result["evaluations"][-1]["test_error"]
    assert result["environment"]["packages"]["torch"] and result["profile"] == "sample"
    again = recipes.load(tmp_path / "run/recipe.resolved.yaml", "sample")
    assert again.resolved == run.recipe.resolved


def test_test_set_is_seen_at_the_last_points_only(tmp_path: Path) -> None:
    run = session(write_recipe(tmp_path), tmp_path / "run", "train.test_checkpoints=1")
    result = run.run()
    assert ["test_error" in e for e in result["evaluations"]] == [False, False, True]
    assert all("validation_error" in e for e in result["evaluations"])


def test_divergence_names_the_last_good_checkpoint(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path)
    hot = session(recipe, tmp_path / "hot", "train.optimizer={name: sgd, lr: 1.0e+30}")
    with pytest.raises(Diverged, match="at step 0; last good checkpoint: .*step-00000000.pt"):
        hot.run()
    run = session(recipe, tmp_path / "run")
    original = run._one_step

    def poison(log: Any) -> None:
        if run.step == 9:
            run.module[1].weight.data[0, 0] = float("nan")  # type: ignore[index,union-attr]
        original(log)

    run._one_step = poison  # type: ignore[method-assign]
    with pytest.raises(Diverged, match=r"base loss is nan at step 9; last good checkpoint: .*step-00000007\.pt"):
        run.run()
    assert torch.isfinite(checkpoint.latest(tmp_path / "run")[0]["model"]["1.weight"]).all()


def test_a_lookahead_that_raises_the_holdout_loss_is_warned_about_once(tmp_path: Path) -> None:
    said: list[str] = []
    recipe = recipes.load(write_recipe(tmp_path), "sample", ("problem.inner.lr=500", "train.log_every=1"))
    result = Session(recipe, tmp_path / "run", say=said.append).run()
    warnings = [line for line in said if line.startswith("warning")]
    assert len(warnings) == 1 and "lower problem.inner.lr (now 500)" in warnings[0]
    assert result["lookahead_warning"] is True


def test_seeds_change_the_run_and_equal_seeds_repeat_it(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path)
    runs = [session(recipe, tmp_path / str(i), f"train.seed={seed}") for i, seed in enumerate((0, 0, 1))]
    for run in runs:
        run.run()
    assert same(runs[0].weights(), runs[1].weights())
    assert not same(runs[0].weights(), runs[2].weights())


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path)
    session(recipe, tmp_path / "run").run()
    other = session(recipe, tmp_path / "run", "model.width=9")
    with pytest.raises(recipes.RecipeError, match="another model"):
        other.resume()


def test_a_run_killed_before_its_first_checkpoint_can_be_resumed(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path)
    whole, killed = session(recipe, tmp_path / "whole"), session(recipe, tmp_path / "killed")
    whole.run()
    one_step = killed._one_step

    def die(log: Any) -> None:
        if killed.step == 2:
            raise MemoryError
        one_step(log)

    killed._one_step = die  # type: ignore[method-assign]
    with pytest.raises(MemoryError):
        killed.run()
    assert [path.name for path in checkpoint.existing(tmp_path / "killed")] == ["step-00000000.pt"]
    again = session(recipe, tmp_path / "killed")
    again.resume()
    again.run()
    assert same(whole.weights(), again.weights())


def test_a_checkpoint_of_other_data_is_refused(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path)
    first = session(recipe, tmp_path / "run")
    first.save()
    other = session(recipe, tmp_path / "run", "task.size=300")
    with pytest.raises(RecipeError, match="the checkpoint was made on scikit-learn make_moons, with other content"):
        other.resume()


def test_a_relative_scale_survives_a_zero_hypergradient(tmp_path: Path) -> None:
    recipe, said = write_recipe(tmp_path), []
    for number, (problem, estimator) in enumerate((("zero_hypergradient", "exact"), ("l2i", "first_order"))):
        sets = (f"problem.name={problem}", f"problem.estimator={estimator}", "problem.scale=relative(1000)")
        run = session(recipe, tmp_path / f"run{number}", *sets, "train.log_every=1")
        run.say = said.append  # type: ignore[method-assign]
        run.run()
        assert all(bool(torch.isfinite(w).all()) for w in run.weights().values())
    told = [line for line in said if "exactly zero" in line]
    assert len(told) == 1 and "'first_order'" in told[0], "the control itself needs no warning"


def test_a_zero_hypergradient_is_no_news_while_no_imputed_label_counts() -> None:
    for silent in ({"mask_rate": 0.0, "lookahead_weight": 1.0}, {"mask_rate": 1.0, "lookahead_weight": 0.0}):
        watcher = Alarms(0.1, "first_order", "second-order terms")
        assert not [w for _ in range(5) for w in watcher.look({"hypergradient_norm": 0.0, **silent}, last=False)]
        counted = {"hypergradient_norm": 0.0, "mask_rate": 0.5, "lookahead_weight": 1.0}
        said = [w for _ in range(5) for w in watcher.look(counted, last=False)]
        assert len(said) == 1 and "exactly zero in 3 measured steps" in said[0]


def test_watching_a_run_without_label_updates_is_said(tmp_path: Path) -> None:
    said: list[str] = []
    recipe = recipes.load(write_recipe(tmp_path, "none"), "sample", ("train.watch_test=5",))
    assert Session(recipe, tmp_path / "run", say=said.append).watch is None
    assert any("no label update that train.watch_test could watch" in line for line in said)


def test_a_measured_label_update_raises_no_warning_of_torch(tmp_path: Path) -> None:
    run = session(write_recipe(tmp_path, "l2i_learnable"), tmp_path / "run", "train.steps=1", "train.log_every=1")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run.run()


def test_gradients_that_are_not_finite_are_never_applied(tmp_path: Path) -> None:
    run = session(write_recipe(tmp_path), tmp_path / "run")
    original = run.algorithm.lookahead.estimate

    def poisoned(*args: Any, **options: Any) -> Any:
        estimate = original(*args, **options)
        return estimate._replace(found={name: g * float("nan") for name, g in estimate.found.items()})  # type: ignore[union-attr]

    run.algorithm.lookahead.estimate = poisoned  # type: ignore[method-assign]
    with pytest.raises(Diverged, match="norm of the hypergradient is nan at step 0"):
        run.run()
    assert all(bool(torch.isfinite(w).all()) for w in run.weights().values())


@pytest.mark.parametrize("estimator", ["exact", "mixed", "approx", "head", "first_order", "truncated(1)", "finite_difference",
                                       "neumann(2)", "{name: cg, m: 2, damping: 0.1}", "forward_gradient(2)", "forward", "es(2)"])  # fmt: skip
def test_every_estimator_trains_from_a_recipe(estimator: str, tmp_path: Path) -> None:
    run = session(
        write_recipe(tmp_path), tmp_path / "run", f"problem.estimator={estimator}", "train.steps=3", "train.log_every=1"
    )
    run.run()
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    norms = [line["hypergradient_norm"] for line in lines if "hypergradient_norm" in line]
    assert len(norms) == 3 and all((n == 0) == (estimator == "first_order") for n in norms[1:])  # lambda(0) = 0


@pytest.mark.parametrize(
    "inner",
    [
        "{optimizer: adam, lr: 0.01, betas: [0.8, 0.9], eps: 1.0e-3}", "{optimizer: adamw, lr: 0.01, weight_decay: 0.1}",
        "{optimizer: rmsprop, lr: 0.01, alpha: 0.9, momentum: 0.5}", "{optimizer: adagrad, lr: 0.1, clip_value: 0.5}",
        "{optimizer: momentum, lr: 0.1, steps: 3, clip_norm: 1.0, schedule: [1.0, 0.5, 0.25]}",
        "{optimizer: sam, lr: 0.1, steps: 2, rho: 0.1}", "{optimizer: schedule_free_adamw, lr: 0.01, steps: 2, warmup_steps: 1}",
        "{optimizer: muon, lr: 0.02, bfloat16: true}", "{optimizer: adafactor, lr: 0.01, eps: [null, 0.01]}",
    ],
)  # fmt: skip
@pytest.mark.parametrize("memory", ["store", "recompute", "auto(10MB)"])
def test_every_inner_optimizer_and_memory_trains_from_a_recipe(inner: str, memory: str, tmp_path: Path) -> None:
    sets = (f"problem.inner={inner}", "problem.estimator=exact", f"problem.memory={memory}", "train.steps=2")
    run = session(write_recipe(tmp_path), tmp_path / "run", *sets)
    assert run.run()["steps"] == 2
    assert all(bool(torch.isfinite(w).all()) for w in run.weights().values())

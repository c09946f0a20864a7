"""``metaimpute.train`` is ``metaimpute run`` from Python."""

from __future__ import annotations

import html
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import metaimpute
from metaimpute.cli import main
from metaimpute.recipes.source import RecipeError
from metaimpute.reporting.run_verdict import run_verdict
from metaimpute.rundir.result import Result
from metaimpute.training.session import Interrupted

SHORT = {"train.steps": 12, "train.eval_every": 6, "train.log_every": 4, "train.threads": 1}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_it_shows_phases_and_messages_when_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    changes = {"train.steps": 2, "train.eval_every": 2, "train.threads": 1}
    metaimpute.train("two_moons", set=changes, out="silent")
    assert capsys.readouterr() == ("", "")
    metaimpute.train("two_moons", set=changes, out="told", verbose=1)
    shown = capsys.readouterr()
    assert not shown.out and "step 2: error %: validation" in shown.err


def test_it_is_the_command(tmp_path: Path) -> None:
    run = metaimpute.train("two_moons", set=SHORT, seed=3, out="python")
    sets = [word for key, value in SHORT.items() for word in ("--set", f"{key}={value}")]
    called = CliRunner().invoke(main, ["run", "two_moons", "--seed", "3", "--out", "command", *sets])
    assert called.exit_code == 0, called.output
    other = Result.read(tmp_path / "command")
    same = ("test_last", "validation_last", "evaluations", "weights_sha256", "overrides", "profile_reason", "seed")
    assert {key: run.result[key] for key in same} == {key: other[key] for key in same}
    assert (run.folder == Path("python") and Result.read(run.folder) == run.result) or run.result.steps == 12
    assert (tmp_path / "python" / "metrics.jsonl").read_text() == (tmp_path / "command" / "metrics.jsonl").read_text()
    assert run.recipe.train.steps == 12 and run.recipe.train.seed == 3
    assert [row["step"] for row in run.metrics if "loss" in row or "base_loss" in row or "lr" in row] == [4, 8, 12]


def test_a_notebook_shows_it_in_a_few_sentences_and_tensorboard_in_groups() -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = metaimpute.train("two_moons", set=SHORT | {"about.title": "<script>"})
    first = run_verdict(run.result).lines[0]
    assert first in repr(run) and len(repr(run)) < 300 and len(repr(run.result)) < 300
    assert f"<b>{html.escape(first)}</b>" in run._repr_html_() and len(run._repr_html_()) < 1500
    assert "<script>" not in run.result._repr_html_() and "test error %" in run.result._repr_html_()
    board = EventAccumulator(str(run.folder / "tensorboard"))
    board.Reload()
    tags = board.Tags()
    assert {"error/test", "error/validation", "training/loss", "look-ahead/cosine", "final/test error"} <= set(
        tags["scalars"]
    )
    assert all("/" in tag for tag in tags["scalars"])
    assert {"result/text_summary", "recipe/text_summary", "wrong test rows/text_summary"} <= set(tags["tensors"])
    assert "_hparams_/experiment" in board.summary_metadata or "_hparams_/session_start_info" in board.summary_metadata


def test_pictures_of_test_rows_are_in_tensorboard() -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = metaimpute.train("digits_mean_teacher", set=SHORT | {"train.steps": 2})
    board = EventAccumulator(str(run.folder / "tensorboard"))
    board.Reload()
    assert "wrong test rows/0" in board.Tags()["images"]


def test_its_network_is_the_one_that_was_evaluated_and_exported() -> None:
    run = metaimpute.train("two_moons", set=SHORT)
    assert run.folder.parent == Path("runs").absolute() and not run.module.training
    again = run.predictor()
    inputs = torch.randn(5, 2)
    with torch.no_grad():
        torch.testing.assert_close(run.module(inputs), again.module(inputs), rtol=0, atol=0)
    assert metaimpute.train("two_moons", set=SHORT).folder != run.folder, "a second run has a folder of its own"


def test_what_is_said_and_measured_reaches_the_caller() -> None:
    said: list[str] = []
    measured: list[int] = []
    metaimpute.train("two_moons", set=SHORT, say=said.append, report=lambda step, values: measured.append(step))
    assert measured == [4, 6, 8, 12, 12]
    with pytest.warns(UserWarning, match="hypergradient|look-ahead|hold-out"):
        metaimpute.train(
            "two_moons", set={**SHORT, "train.log_every": 1, "problem.inner.lr": 1e-9, "problem.inner.rate": "fixed"}
        )


def test_a_run_goes_on_where_it_stopped(tmp_path: Path) -> None:
    whole = metaimpute.train("two_moons", set=SHORT, out="whole")

    def stop(step: int, values: dict[str, float]) -> None:
        if step == 6:
            raise Interrupted("here")

    with pytest.raises(Interrupted):
        metaimpute.train("two_moons", set={**SHORT, "train.checkpoint_every": 2}, out=tmp_path / "part", report=stop)
    part = metaimpute.train(resume=tmp_path / "part")
    assert part.result.weights_sha256 == whole.result.weights_sha256


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"recipe": "two_mons"}, "two_moons"),
        ({"recipe": "two_moons", "set": {"train.stepz": 3}}, r"train\.stepz.*steps"),
        ({"recipe": "two_moons", "set": ["train.steps"]}, "key=value"),
        ({"recipe": "two_moons", "set": "train.steps=-1"}, r"train\.steps"),
        ({"recipe": "two_moons", "profile": "papr"}, "no profile 'papr'"),
        ({"recipe": "two_moons", "set": 5}, "set= is a mapping"),
        ({"recipe": "two_moons", "set": [5]}, "set= is a mapping"),
        ({"recipe": "two_moons", "set": {"train.steps": object()}}, r"set\['train\.steps'\]: a recipe cannot hold a object"),
        ({"recipe": 3}, "recipe= is the name of a file or folder, not 3"),
        ({"recipe": "two_moons", "out": ""}, "out= is the name"),
        ({"resume": ""}, "resume= is the name"),
        ({}, r"name a recipe, e\.g\. metaimpute\.train"),
        ({"recipe": "two_moons", "resume": "runs"}, "^resume= continues a run as it was; leave out recipe, profile="),
        ({"resume": "nowhere"}, "not a run directory"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message) as error:
        metaimpute.train(**options)
    assert "\n" not in str(error.value)


def test_nothing_is_written_over() -> None:
    metaimpute.train("two_moons", set=SHORT, out="mine")
    with pytest.raises(
        RecipeError, match="mine already holds a run; continue it with resume='mine' or choose another out="
    ):
        metaimpute.train("two_moons", set=SHORT, out="mine")


def test_values_of_a_change_are_values(tmp_path: Path) -> None:
    numbers = {"problem.weight": np.float64(0.5), "train.batch": np.int64(8), "problem.inner.lr": torch.tensor(0.25)}
    spec = metaimpute.train("two_moons", set={**SHORT, **numbers}).recipe
    assert (spec.problem_spec.weight, spec.train.batch, spec.problem_spec.inner.lr) == (0.5, 8, 0.25)
    odd = {"about.title": "a: [b] #c", "problem.inner": {"optimizer": "sgd", "lr": 0.25}, "train.ema": None}
    run = metaimpute.train("two_moons", set={**SHORT, **odd}, out=tmp_path / "odd")
    assert run.result.title == "a: [b] #c" and run.recipe.problem_spec.inner.lr == 0.25 and run.recipe.train.ema is None

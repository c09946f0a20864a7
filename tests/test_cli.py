"""What a user types, and the exit codes: 0 fine, 2 usage or recipe, 3 data missing, 4 diverged, 130 interrupted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from metaimpute.cli import main
from metaimpute.cli.lists import KINDS

RECIPES = Path(__file__).parents[1] / "recipes"

SMALL = """\
about: {title: small}
task: {name: two_moons, labels: 4, validation: 20, size: 100}
model: {name: mlp, width: 8}
method: {name: mean_teacher}
problem: {name: l2i}
train: {steps: 4, batch: 4, unlabelled_batch: 8, eval_every: 2, log_every: 1, threads: 1}
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory with one small recipe and no data anywhere."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("METAIMPUTE_DATA", raising=False)
    monkeypatch.setenv("METAIMPUTE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("metaimpute.tasks.imdb._datasets_cache", lambda: None)
    (tmp_path / "small.yaml").write_text(SMALL)
    return tmp_path


def call(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments, catch_exceptions=False)


def test_run_trains_and_shows_a_table(here: Path) -> None:
    done = call("run", "small.yaml")
    assert done.exit_code == 0, done.output
    assert "profile sample: the recipe has no paper profile" in done.output.splitlines()[0]
    assert "mean_teacher + l2i (exact)" in done.output and "test error %" in done.output
    result = json.loads((here / "runs/small-l2i-seed0/result.json").read_text())
    assert result["profile"] == "sample" and result["steps"] == 4 and result["recipe"] == "small.yaml"


def test_a_run_that_ends_before_it_began_leaves_no_folder(here: Path) -> None:
    wrong = ("--set", "problem.estimator={name: head, parameters: [nope]}")  # seen when the network is there
    assert call("run", "small.yaml", *wrong).exit_code == 2 and not (here / "runs/small-l2i-seed0").exists()
    (here / "mine").mkdir()
    assert call("run", "small.yaml", "--out", "mine", *wrong).exit_code == 2 and (here / "mine").is_dir()
    assert call("run", "small.yaml").exit_code == 0 and [one.name for one in (here / "runs").iterdir()] == [
        "small-l2i-seed0"
    ]


@pytest.mark.parametrize("problem", ["none", "l2i", "l2i_learnable", "zero_hypergradient"])
def test_problems_by_set(here: Path, problem: str) -> None:
    assert call("run", "small.yaml", "--set", f"problem.name={problem}").exit_code == 0
    assert (here / f"runs/small-{problem}-seed0/result.json").exists()


@pytest.mark.parametrize("estimator", ["exact", "mixed", "approx", "head", "first_order"])
def test_estimators_by_set(here: Path, estimator: str) -> None:
    assert (
        call("run", "small.yaml", "--set", f"problem.estimator={estimator}", "--seed", "3", "--out", "o").exit_code == 0
    )
    result = json.loads((here / "o/result.json").read_text())
    assert result["estimator"] == estimator and result["seed"] == 3


def test_runs_do_not_overwrite_each_other(here: Path) -> None:
    assert call("run", "small.yaml").exit_code == call("run", "small.yaml").exit_code == 0
    assert (here / "runs/small-l2i-seed0-2/result.json").exists()
    assert call("run", "small.yaml", "--out", "mine").exit_code == 0
    again = call("run", "small.yaml", "--out", "mine")
    assert again.exit_code == 2 and "already holds a run" in again.output


def test_resume_continues_and_says_so(here: Path) -> None:
    call("run", "small.yaml", "--out", "r")
    done = call("run", "--resume", "r")
    assert done.exit_code == 0 and "resumed from step-00000004.pt at step 4 of 4" in done.output
    assert json.loads((here / "r/result.json").read_text())["recipe"] == "small.yaml"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "nowhere.yaml"], "nowhere.yaml: No such file"),
        (["run"], "name a recipe"),
        (["run", "small.yaml", "--set", "train.stesp=3"], "did you mean 'steps'?"),
        (["run", "small.yaml", "--set", "task.labels=3"], "cannot be spread evenly over 2 classes"),
        (["run", "small.yaml", "--set", "task.labels=5000"], "task.labels: 2500 per class asked, but class"),
        (["run", "small.yaml", "--set", "train.device=warp"], "train.device: device 'warp' is not available"),
        (["run", "small.yaml", "--profile", "paper"], "no profile 'paper'; it has sample"),
        (["run", "--resume", "nowhere"], "not a run directory"),
        (["run", "--resume", "nowhere", "--seed", "1"], "leave out"),
        (["check", "empty"], "no recipe (*.yaml) in empty"),
        (["data", "get", "imbd"], "did you mean 'imdb'?"),
        (["data", "example", "imags", "my_images"], "did you mean 'images'?"),
        (["run", "small.yaml", "--nonsense"], "no such option"),
        (["list", "planets"], "error: unknown kind 'planets'; did you mean 'problems'?"),
        (["list", "xyz"], "error: unknown kind 'xyz'; choose one of: estimators, methods, models,"),
    ],
)
def test_mistakes_exit_2_in_one_line(here: Path, arguments: list[str], message: str) -> None:
    (here / "empty").mkdir()
    done = call(*arguments)
    assert done.exit_code == 2 and message in done.output and "Traceback" not in done.output
    errors = [line for line in done.output.splitlines() if line.startswith("error:")]
    assert len(errors) <= 1


def test_missing_data_exits_3_and_says_how_to_get_it(here: Path) -> None:
    (here / "imdb.yaml").write_text(
        SMALL.replace("{name: two_moons, labels: 4, validation: 20, size: 100}", "{name: imdb, labels: 4}").replace(
            "{name: mlp, width: 8}", "{name: minilm}"
        )
    )
    done = call("run", "imdb.yaml")
    assert done.exit_code == 3 and "metaimpute data get imdb" in done.output and "Traceback" not in done.output
    checked = call("check", "imdb.yaml", "small.yaml")
    assert checked.exit_code == 3 and "small.yaml [sample]: valid" in checked.output
    assert "cannot run here for want of data: imdb.yaml" in checked.output


def test_divergence_exits_4(here: Path) -> None:
    done = call("run", "small.yaml", "--set", "train.optimizer={name: sgd, lr: 1.0e+36}", "--set", "problem.name=none")
    assert done.exit_code == 4 and "training diverged: base loss is nan" in done.output


def test_check_validates_every_profile(here: Path) -> None:
    (here / "two.yaml").write_text(SMALL + "profiles:\n  paper: {train: {steps: 9}}\n  sample: {train: {stps: 1}}\n")
    done = call("check", "two.yaml")
    assert done.exit_code == 2 and "two.yaml:9: train.stps: unknown key; did you mean 'steps'?" in done.output
    assert call("check", "small.yaml").stdout == "small.yaml [sample]: valid\n"


@pytest.mark.parametrize("kind", KINDS)
def test_list_shows_every_entry_with_a_line(here: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)  # a narrow terminal folds lines
    (here / "recipes").mkdir()
    (here / "recipes/small.yaml").write_text(SMALL)
    done = call("list", kind)
    assert done.exit_code == 0
    expected = {"recipes": "recipes/small.yaml", "estimators": "mixed", "problems": "l2i_learnable", "tasks": "digits",
                "methods": "uda", "models": "bert-base-uncased", "optimizers": "nesterov",
                "systems": "kernel"}  # fmt: skip
    assert expected[kind] in done.output
    shortest = 2 if kind == "recipes" else 4
    assert all(len(line.split()) >= shortest for line in done.output.splitlines()[1:])


def test_data_status_and_a_fetch_that_cannot_succeed(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    status = call("data", "status")
    assert status.exit_code == 0 and "imdb: not here; metaimpute data get imdb" in status.output

    def offline(*args: object, **options: object) -> None:
        raise ConnectionError("the network is unreachable\nmore detail")

    monkeypatch.setattr("datasets.load_dataset", offline)
    done = call("data", "get", "imdb")
    assert done.exit_code == 3 and "aclImdb_v1.tar.gz" in done.output and "the network is unreachable)" in done.output
    monkeypatch.setattr("huggingface_hub.snapshot_download", offline)
    assert call("data", "get", "bert-base-uncased").exit_code == 3


@pytest.mark.parametrize(
    "setting",
    [
        "train.optimizer.betas=[2,3]", "train.optimizer={name: sgd, nesterov: true, momentum: 0, lr: 0.1}", "model.dropout=2",
        "model.width=0", "model.depth=-1", "task.size=0", "task.noise=-1", "train.device=meta", "train.batch=1000000000",
        "method.weight=-3", "train.optimizer.lr=.inf", "problem.weight=.nan", "problem.inner.betas=[0.9,0.9]",
        "problem.inner={optimizer: sgd, lr: 0.1, steps: 3, schedule: [1.0]}", "problem.inner.lr=-1", "train.seed=-1",
        "profiles.sample=3",
    ],
)  # fmt: skip
def test_values_out_of_range_end_in_one_line(setting: str, tmp_path: Path) -> None:
    command = [
        "run",
        str(RECIPES / "two_moons.yaml"),
        "--set",
        "train.steps=2",
        "--set",
        setting,
        "--out",
        str(tmp_path / "r"),
    ]
    done = CliRunner().invoke(main, command)
    errors = [line for line in done.stderr.splitlines() if not line.startswith("profile ")]
    assert done.exit_code == 2 and len(errors) == 1, done.output
    assert setting.split("=")[0].split(".")[0] in done.stderr


def test_mistakes_in_a_run_directory_end_in_one_line(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    command = ["run", str(RECIPES / "two_moons.yaml"), "--set", "train.steps=3", "--out", str(folder)]
    assert CliRunner().invoke(main, command).exit_code == 0
    done = CliRunner().invoke(main, ["run", str(RECIPES / "two_moons.yaml"), "--resume", str(folder)])
    assert done.exit_code == 2 and "leave out RECIPE" in done.stderr
    for damaged in ("[]", "{}", "nonsense", '{"profile": "x"}'):
        (folder / "begun.json").write_text(damaged)
        assert CliRunner().invoke(main, ["run", "--resume", str(folder)]).exit_code == 0
    done = CliRunner().invoke(main, ["run", str(tmp_path)])
    assert done.exit_code == 2 and "to metaimpute check" in done.stderr
    done = CliRunner().invoke(main, [*command[:-1], str(folder / "result.json")])
    assert done.exit_code == 2 and "cannot be a file" in done.stderr


def test_what_nobody_foresaw_is_one_line_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("by hand\nand more")

    monkeypatch.setattr("metaimpute.training.session.Session.run", broken)
    command = ["run", str(RECIPES / "two_moons.yaml"), "--out", str(tmp_path / "r")]
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 1 and done.stderr.splitlines()[-1].startswith(
        "error: internal: ZeroDivisionError: by hand (METAIMPUTE_DEBUG"
    )

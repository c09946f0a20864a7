"""Results as JSON, quiet commands, the next step, time limits, completion: what commands say, and where."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner, Result

import metaimpute
from metaimpute import catalog
from metaimpute.cli import main

from . import fake_data
from .training.test_session import write_recipe

SHORT = [f"--set=train.{short}" for short in ("steps=3", "eval_every=3", "log_every=1", "threads=1")]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(*arguments: str, code: int = 0) -> Result:
    done = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert done.exit_code == code, done.output
    return done


def document(*arguments: str) -> Any:
    """What ``--json`` prints, strictly: no NaN, and nothing else on the standard output."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    return json.loads(call(*arguments, "--json").stdout, parse_constant=refuse)


def test_results_are_documents_and_next_steps_commands(here: Path) -> None:
    run = document("run", "two_moons", *SHORT, "--out", "runs/a")
    assert run["run"] == "runs/a" and run["steps"] == 3 and run["test_last"] > 0
    second = call("run", "two_moons", *SHORT, "--out", "runs/b", "--set", "problem.name=none")
    assert "next: metaimpute report runs/b" in second.stderr and "step 3: error %" in second.stderr
    assert "step 3" not in second.stdout and "test error %" in second.stdout
    found = document("compare", "runs")["comparisons"]
    assert [one["name"] for one in found[0]["systems"]] == ["mean_teacher + l2i (exact)", "mean_teacher"]
    assert [one["difference"] for one in found[0]["systems"]] == [None, None]  # of one seed
    for name, more in (("a", ()), ("b", ("--set", "problem.name=none"))):
        call("run", "two_moons", *SHORT, "--out", f"runs/{name}1", "--seed", "1", *more)
    later = document("compare", "runs")["comparisons"][0]["systems"][1]
    assert set(later["errors"]) == {"0", "1"} and len(later["difference"]["differences"]) == 2
    assert "next: metaimpute report runs" in call("compare", "runs").stderr
    page = document("report", "runs")
    assert page["page"] == "report.html" and len(page["runs"]) == 4 and (here / "report.html").exists()
    assert "next: metaimpute compare runs" in call("report", "runs").stderr


def test_labels_are_documents(here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    table = fake_data.make_own_table(here)
    call("init", "table", table.name)
    done = call("run", f"{table.stem}.yaml", *SHORT, "--out", "r")
    assert "next: metaimpute impute r" in done.stderr
    made = document("impute", "r")
    assert made["files"] == ["r/labels.csv"] and made["count"] == sum(made["labels"].values()) and "rows" not in made
    metaimpute.load("r").predict(table.name)
    assert capsys.readouterr().err == "", "nothing is said where nobody asked"
    monkeypatch.setattr("metaimpute.showing.FIRST", 0.0)
    metaimpute.load("r").predict(table.name, verbose=1)
    assert "reading: " in capsys.readouterr().err
    told = document("predict", "r", table.name)
    assert told["count"] == len(told["rows"]) and {"id", "label", "confidence"} <= set(told["rows"][0])
    quiet = call("impute", "r", "--quiet")
    assert not quiet.stderr and quiet.stdout.startswith("labels: ") and "wrote" not in quiet.output


def test_a_study_is_a_document_and_its_runs_are_phases(here: Path) -> None:
    write_recipe(here)
    (here / "s.yaml").write_text(
        "recipe: small.yaml\nsystems: {none: {problem.name: none}, l2i: []}\nset: {train.steps: 2}\nseeds: 1\n"
    )
    assert document("study", "s.yaml", "--check") == {"folder": "runs/s", "runs": 2, "to_run": 2}
    found = document("study", "s.yaml", "--jobs", "0")
    assert [one["name"] for one in found["systems"]] == ["none", "l2i"] and found["finished"]
    done = call("study", "s.yaml", "--jobs", "0")
    assert "next: metaimpute report runs/s" in done.stderr and "next" not in done.stdout
    assert not call("study", "s.yaml", "--jobs", "0", "-q").stderr


def test_quiet_leaves_results_warnings_and_errors(here: Path) -> None:
    done = call("run", "two_moons", *SHORT, "--out", "r", "--quiet")
    assert "test error %" in done.stdout and "wrote" not in done.output and "next" not in done.output
    assert all(line.startswith("warning: ") for line in done.stderr.splitlines())
    assert call("check", "nowhere.yaml", "-q", code=2).stderr.startswith("error: ")


def test_a_bare_list_and_one_kind_are_documents(here: Path) -> None:
    everything = document("list")
    assert tuple(everything) == catalog.KINDS and all(everything.values())
    one = document("list", "problems")
    assert (
        list(one) == ["problems"]
        and {"name": "none", "summary": catalog.registered("problems")["none"]} in one["problems"]
    )
    shown = call("list").stdout
    assert all(kind in shown.splitlines() for kind in catalog.KINDS)


@pytest.mark.parametrize("width", [60, 80, 120])
@pytest.mark.parametrize("words", [("list",), ("list", "recipes"), ("compare", "runs"), ("report", "runs")])
def test_tables_keep_to_their_terminal(
    words: tuple[str, ...], width: int, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if words[-1] == "runs":
        for name in ("none", "l2i", "random_direction"):
            call("run", "two_moons", *SHORT, "--out", f"runs/{name}", "--set", f"problem.name={name}", "-q")
    monkeypatch.setenv("COLUMNS", str(width))
    lines = call(*words).stdout.splitlines()
    assert max(map(len, lines)) <= width
    if words[0] == "report":  # whole words in each of the tables that it takes
        assert sum("test error %" in line for line in lines) == {60: 3, 80: 2, 120: 1}[width]
    if words[0] == "compare":
        assert ("sample profile; " in "".join(lines)) == (width < 100)


def test_check_sums_up_a_folder_and_waits_for_no_data_of_ones_own(here: Path) -> None:
    folder = here / "recipes"
    folder.mkdir()
    for name in ("two_moons", "own_table"):
        call("copy", name, "--out", f"recipes/{name}.yaml")
    done = call("check", "recipes")
    assert done.stdout.splitlines()[-1] == "2 recipes are valid: 1 can run here, 1 wait for data of your own"
    assert "own_table.yaml [sample]: valid; a template" in done.stdout
    assert call("check", "recipes/own_table.yaml", code=3).stderr.startswith("error: valid, but cannot run here")
    found = document("check", "recipes")
    assert [one["runs_here"] for one in found["recipes"]] == [False, True] and found["missing"] == []
    assert "next: metaimpute run two_moons" in call("check", "two_moons").stderr.replace("./", "").replace(
        str(catalog.shipped_recipes()["two_moons"]), "two_moons"
    )


def test_a_recipe_is_copied_and_nothing_written_over(here: Path) -> None:
    done = call("copy", "two_moons")
    assert (here / "two_moons.yaml").read_text() == catalog.shipped_recipes()["two_moons"].read_text()
    assert done.stderr == "next: metaimpute run two_moons.yaml\n"
    (here / "two_moons.yaml").write_text("mine")
    assert "two_moons.yaml exists already; write over it with --force" in call("copy", "two_moons", code=2).stderr
    assert (here / "two_moons.yaml").read_text() == "mine"
    call("copy", "two_moons.yaml", "--force")
    assert (here / "two_moons.yaml").read_text() != "mine"
    assert "did you mean 'two_moons'?" in call("copy", "two_mons", code=2).stderr


def test_a_time_limit_stops_a_run_that_then_goes_on(here: Path) -> None:
    words = ["--set=train.steps=6", "--set=train.eval_every=6", "--set=train.threads=1"]
    done = call("run", "two_moons", *words, "--out", "r", "--time-limit", "0.0001s", code=130)
    last = done.stderr.splitlines()[-1]
    assert last == "stopped: the time limit of 0.0001s is over: stopped at step 1; continue with --resume r"
    again = call("run", "--resume", "r", "--time-limit", "0.0001s", "--json", code=130)
    told = json.loads(again.stdout)
    assert (told["run"], told["step"], told["steps"]) == ("r", 2, 6) and told["next"] == "metaimpute run --resume r"
    assert "the time limit of 0.0001s is over" in told["stopped"] and "error:" not in again.stderr
    assert document("run", "--resume", "r", "--time-limit", "1h")["steps"] == 6
    for wrong in ("soon", "0s", "-3min"):
        assert "a time such as '90s', '10min' or '2h'" in call("run", "two_moons", "--time-limit", wrong, code=2).stderr


def completed(words: list[str], begun: str) -> list[str]:
    found = ShellComplete(main, {}, "metaimpute", "_METAIMPUTE_COMPLETE").get_completions(words, begun)
    return [item.value for item in found if item.type == "plain"]


def test_shells_complete_recipes_keys_and_values(monkeypatch: pytest.MonkeyPatch) -> None:
    assert completed(["run"], "imdb_ud")[0] == "imdb_uda" and "two_moons" in completed(["copy"], "")
    assert completed(["list"], "est") == ["estimators"]
    assert "train.steps=" in completed(["run", "--set"], "train.st")
    assert completed(["run", "--set"], "method.name=ud") == ["method.name=uda"]
    assert completed(["run", "--set"], "problem.holdout=") == [
        "problem.holdout=joint", "problem.holdout=separate", "problem.holdout=trusted",
    ]  # fmt: skip
    assert "problem.estimator=mixed" in completed(["check", "--set"], "problem.estimator=m")
    monkeypatch.setenv("COMP_WORDS", "metaimpute run imdb_uda --set task.lab")
    assert completed(["run", "imdb_uda", "--set"], "task.lab") == ["task.labels="]


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
@pytest.mark.parametrize(
    ("term", "no_color"),
    [("xterm-256color", ""), ("xterm-256color", "1"), pytest.param("dumb", "", marks=pytest.mark.slow)],
)
def test_colours_are_for_terminals_that_have_them(term: str, no_color: str, here: Path) -> None:
    import pty

    environment = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "FORCE_COLOR", "COLUMNS")}
    environment |= {"TERM": term} | ({"NO_COLOR": no_color} if no_color else {})
    parent, child = pty.openpty()
    words = [sys.executable, "-m", "metaimpute", "run", "two_moons", *SHORT, "--out", "r"]
    process = subprocess.Popen(words, stdout=child, stderr=child, stdin=child, env=environment)
    os.close(child)
    said = b""
    while True:
        try:
            part = os.read(parent, 1 << 16)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        said += part
    os.close(parent)
    assert process.wait() == 0 and said.startswith(b"starting ...")
    coloured = any(code in said for code in (b"\x1b[32m", b"\x1b[36m", b"\x1b[33m"))
    assert coloured == (term != "dumb" and not no_color)
    assert (b"\x1b[36m\x1b[1mnext:\x1b[0m metaimpute report r" in said) == coloured and b"metaimpute report r" in said
    assert (b"\x1b" in said) == (term != "dumb")

"""Studies on a cluster without machines: the same files as here, with and without a common disk, and what deaths leave."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from metaimpute.cli import main
from metaimpute.cluster.calls import Desk, Lost
from metaimpute.study import away
from metaimpute.study.away import on_cluster
from metaimpute.study.plan import read_study
from metaimpute.study.progress import Progress, carry_out, prepare
from metaimpute.study.runs import Job, Outcome, perform
from metaimpute.study.workers import here as local
from metaimpute.training.session import Session

from ..small_study import RECIPE
from .made import Made

STUDY = "recipe: small.yaml\nsystems: {none: {problem.name: none}, l2i: []}\nseeds: 1\n"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a study, and nodes that make their runs in this process."""
    monkeypatch.chdir(tmp_path)
    Path("small.yaml").write_text(RECIPE)
    Path("s.yaml").write_text(STUDY)

    def made(job: Job, cwd: Path, modules: Any, origin: Any, desk: Desk) -> Outcome | Lost:
        return perform(job)

    monkeypatch.setattr(away, "_made", made)
    return tmp_path


def run(cluster: Made, out: str = "far", retries: int = 1) -> tuple[Progress, list[str]]:
    said = list[str]()
    progress = prepare(read_study(Path("s.yaml")), Path(out), cores=1)
    carry_out(progress, on_cluster(cluster, Path(out), retries, said.append), lambda job, outcome: None)
    return progress, said


def content(folder: str) -> Mapping[str, Any]:
    """What the runs of a folder say, without times and the machine."""
    left = ("training_seconds", "phase_seconds", "environment")
    found = {path.parent.as_posix().removeprefix(f"{folder}/"): json.loads(path.read_text())
             for path in Path(folder).glob("*/*/result.json")}  # fmt: skip
    return {name: {key: value for key, value in one.items() if key not in left} for name, one in found.items()}


@pytest.mark.parametrize("common", [True, False])
def test_runs_on_nodes_leave_what_runs_here_leave(here: Path, monkeypatch: pytest.MonkeyPatch, common: bool) -> None:
    progress = prepare(read_study(Path("s.yaml")), Path("local"))
    carry_out(progress, local(0), lambda job, outcome: None)
    if not common:
        monkeypatch.setattr(away, "sees", lambda job, origin, recipe: False)
    found, said = run(Made())
    assert found.count("finished") == 2 and not said
    assert len(content("local")) == 2 and content("far") == content("local")
    names = [sorted(path.relative_to(folder).as_posix() for path in Path(folder).rglob("*") if "events" not in path.name)
             for folder in ("local", "far")]  # fmt: skip
    assert names[0] == names[1]
    for one in ("none", "l2i"):
        begun = [json.loads(Path(f"{folder}/{one}/seed0/begun.json").read_text()) for folder in ("local", "far")]
        assert begun[0] == begun[1]


@pytest.mark.parametrize("common", [True, False])
def test_a_run_goes_on_from_what_its_dead_worker_left(
    here: Path, monkeypatch: pytest.MonkeyPatch, common: bool
) -> None:
    if not common:
        monkeypatch.setattr(away, "sees", lambda job, origin, recipe: False)
    original, steps = Session._one_step, [0]

    def one_step(self: Session, log: Any) -> None:
        steps[0] += 1
        if steps[0] == 5:
            raise MemoryError("its worker was killed")
        original(self, log)

    monkeypatch.setattr(Session, "_one_step", one_step)

    def dying(job: Job, cwd: Path, modules: Any, origin: Any, desk: Desk) -> Outcome | Lost:
        outcome = perform(job)
        return Lost(outcome.reason) if "killed" in outcome.reason else outcome

    monkeypatch.setattr(away, "_made", dying)
    found, said = run(Made())
    assert found.count("finished") == 2 and steps[0] == 5 + 2 + 6, "from the checkpoint at step 4"
    assert said == ["none, seed 0: MemoryError: its worker was killed; it is tried again"]


def test_a_run_whose_node_dies_again_and_again_is_a_failure_that_the_next_command_tries(here: Path) -> None:
    found, said = run(Made({"none, seed 0": 3}), retries=2)
    assert found.outcomes["none", 0] == Outcome("failed", "its node died") and len(said) == 2
    assert found.outcomes["l2i", 0].status == "finished"
    again = prepare(read_study(Path("s.yaml")), Path("far"))
    assert [job.row for job in again.waiting] == ["none"]


def test_a_node_sees_the_study_by_its_own_word_alone(here: Path) -> None:
    job = prepare(read_study(Path("s.yaml")), Path("far"), cores=1).jobs[0]
    origin = away.Origin(here, here / "far/mark", "word", ("mine.py",), {})
    Path("far").mkdir()
    for word, module, seen in (("other", True, False), ("word", False, False), ("word", True, True)):
        Path("far/mark").write_text(word)
        Path("mine.py").unlink(missing_ok=True)
        if module:
            Path("mine.py").write_text("")
        assert away.sees(job, origin, here / "small.yaml") is seen
    Path("other.yaml").write_text("another")
    assert not away.sees(job, origin, here / "other.yaml")


MISTAKES = [
    (("--ray", "127.0.0.1:1"), 2, "nothing answers there"),
    (("--ray", "nonsense"), 2, "an address is HOST:PORT, ray://HOST:PORT, or auto"),
    (("--ray", "local"), 2, "without a cluster use --jobs"),
    (("--ray", "auto", "--jobs", "2"), 2, "--jobs is for this machine"),
    (("--retries", "3"), 2, "--retries is for a cluster; add --ray, or leave it out"),
    (("--ray", "s.yaml"), 2, "'s.yaml' is a file, not a cluster's address; write --ray behind it"),
]


@pytest.mark.parametrize(("options", "code", "said"), MISTAKES, ids=[" ".join(one[0]) for one in MISTAKES])
def test_what_cannot_be_is_one_line(
    here: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], code: int, said: str
) -> None:
    monkeypatch.setattr("metaimpute.cluster.over_ray.installed", lambda: True)
    done = CliRunner().invoke(main, ["study", "s.yaml", *options])
    assert done.exit_code == code and said in done.stderr.splitlines()[-1], done.stderr
    assert "Traceback" not in done.output


def test_without_ray_it_says_how_to_get_it(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metaimpute.cluster.over_ray.installed", lambda: False)
    done = CliRunner().invoke(main, ["study", "s.yaml", "--ray"])
    assert done.exit_code == 3 and "pip install 'metaimpute[ray]'" in done.stderr.splitlines()[-1]

"""Studies on a real Ray cluster of this machine: the bits of ``--jobs``, a node killed in the middle, a driver killed and resumed.

Slow, since a cluster takes ten seconds to begin and a node's death some to be noticed. They need the package ray.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ..small_study import RECIPE as SMALL
from ..small_study import STUDY

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
LONG = "train: {steps: STEPS, batch: 4, unlabelled_batch: 8, eval_every: 20, checkpoint_every: 20}\n"
RECIPE = SMALL.partition("train:")[0].replace("two_moons", "own_moons") + LONG
MODULE = """\
from metaimpute.tasks.base import register_task
from metaimpute.tasks.two_moons import TwoMoons


@register_task("own_moons")
class OwnMoons(TwoMoons):
    pass
"""
SAME = ("weights_sha256", "evaluations", "test_last", "test_median", "recipe", "imports", "steps", "warnings")


class Nodes:
    """A cluster whose head has no CPU and each other node one."""

    def __init__(self) -> None:
        ray = pytest.importorskip("ray", reason="ray is not installed")
        cluster_utils = pytest.importorskip("ray.cluster_utils")
        self.cluster = cluster_utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
        self.nodes = [self.cluster.add_node(num_cpus=1) for _ in range(2)]
        self.ray = ray

    @property
    def address(self) -> str:
        return str(self.cluster.address)

    def kill(self) -> None:
        self.cluster.remove_node(self.nodes.pop(0), allow_graceful=False)


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Nodes]:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("RAY_worker_niceness", "0")  # else workers wait for whatever else this machine does
    found = Nodes()
    yield found
    found.cluster.shutdown()


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write(40)
    Path("s.yaml").write_text(STUDY)
    Path("own_moons.py").write_text(MODULE)
    return tmp_path


def write(steps: int) -> None:
    Path("small.yaml").write_text(RECIPE.replace("STEPS", str(steps)))


def begin(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "metaimpute", "study", "s.yaml", "--import", "own_moons.py", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def call(*arguments: str) -> tuple[int, str, str]:
    process = begin(*arguments)
    output, said = process.communicate(timeout=900)
    return process.returncode, output, said


def results(folder: str) -> dict[str, dict[str, Any]]:
    found = {path.parent.relative_to(folder).as_posix(): json.loads(path.read_text())
             for path in sorted(Path(folder).glob("*/*/result.json"))}  # fmt: skip
    return {name: {key: one.get(key) for key in SAME} for name, one in found.items()}


def wait_until(holds: Callable[[], bool], seconds: float = 600) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.05)


def checkpoints(folder: str) -> list[Path]:
    return list(Path(folder).glob("*/*/checkpoints/step-*.pt"))


def test_a_study_on_ray_has_the_bits_of_one_in_local_processes(nodes: Nodes, here: Path) -> None:
    assert call("--out", "local", "--jobs", "2", "--threads", "1")[0] == 0
    code, output, said = call("--out", "far", "--ray", nodes.address)
    assert code == 0, said
    assert len(results("local")) == 4 and results("far") == results("local")
    assert "2 systems x 2 seeds = 4 runs" in said and output.count("error %") >= 4
    assert not list(Path("far").glob(".study-folder"))


def test_a_node_that_dies_takes_no_run_with_it(nodes: Nodes, here: Path) -> None:
    write(600)
    assert call("--out", "local", "--jobs", "2", "--threads", "1")[0] == 0
    process = begin("--out", "far", "--ray", nodes.address)
    wait_until(lambda: len({path.parent for path in checkpoints("far")}) >= 2)
    nodes.kill()
    _, said = process.communicate(timeout=900)
    assert process.returncode == 0, said
    assert "it is tried again" in said, said
    assert len(results("local")) == 4 and results("far") == results("local")


def test_a_driver_that_is_killed_is_gone_on_with_by_the_same_command(nodes: Nodes, here: Path) -> None:
    write(600)
    assert call("--out", "local", "--jobs", "2", "--threads", "1")[0] == 0
    process = begin("--out", "far", "--ray", nodes.address)
    wait_until(lambda: len({path.parent for path in checkpoints("far")}) >= 2)
    process.kill()
    process.communicate()
    finished = len(results("far"))
    assert finished < 4
    code, _, said = call("--out", "far", "--ray", nodes.address)
    assert code == 0, said
    assert f"{finished} finished, {4 - finished} to run" in said and results("far") == results("local")


def test_ctrl_c_brings_every_run_to_a_checkpoint_and_back(nodes: Nodes, here: Path) -> None:
    write(4000)
    process = begin("--out", "far", "--ray", nodes.address)
    wait_until(lambda: len({path.parent for path in checkpoints("far")}) >= 2)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=600)
    assert process.returncode == 130 and "the same command goes on" in said and "Traceback" not in said, said
    steps = [int(path.stem[5:]) for path in checkpoints("far")]
    assert any(step % 20 for step in steps), "written when it was asked to stop, and not when one was due"


def test_an_address_that_nobody_answers_at_ends_in_a_line(here: Path) -> None:
    pytest.importorskip("ray", reason="ray is not installed")
    started = time.monotonic()
    code, _, said = call("--out", "far", "--ray", "127.0.0.1:1")
    assert code == 2 and "--ray 127.0.0.1:1: nothing answers there" in said and len(said.strip().splitlines()) <= 3
    assert time.monotonic() - started < 60

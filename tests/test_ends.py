"""How commands end when someone stops them, nobody reads them, or another is at work in the same folder."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from metaimpute.cli import main
from metaimpute.cli.output import screen
from metaimpute.reporting.console import TrainingProgress
from metaimpute.rundir.files import locked
from metaimpute.training.session import Interrupted

from .training.test_session import session, write_recipe

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals and pipes")
STUDY = "recipe: small.yaml\nsystems: {none: {problem.name: none}, l2i: []}\nset: {train.steps: 2}\nseeds: 1\n"


@pytest.fixture(autouse=True)
def terminal_not_ignored() -> Iterator[None]:
    """As from a terminal: under nohup the tests' own process, and with it its children, would ignore SIGHUP."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


def started(*words: str, **options: object) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "metaimpute", *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True, **options)  # type: ignore[call-overload]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_during_imports_is_one_line_and_130(number: signal.Signals) -> None:
    process = started("run", "two_moons", "--set", "train.steps=100000")
    maps = Path(f"/proc/{process.pid}/maps")
    if maps.exists():  # torch is on its way in
        while b"libtorch" not in maps.read_bytes():
            time.sleep(0.01)
    else:
        time.sleep(0.6)
    process.send_signal(number)
    said, error = process.communicate(timeout=60)
    assert process.returncode == 130 and b"Traceback" not in error and error.endswith(b"error: interrupted\n"), error


@pytest.mark.parametrize("number", ["SIGTERM", "SIGHUP"])
def test_a_signal_outside_of_training_is_one_line_and_130(number: str) -> None:
    code = (
        "import os, signal, time\nfrom metaimpute.cli.errors import plain_errors\n"
        f"with plain_errors():\n    os.kill(os.getpid(), signal.{number}); time.sleep(9)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert done.returncode == 130 and done.stderr == b"error: interrupted\n"


def test_ctrl_c_during_imports_is_not_for_the_imported_to_catch() -> None:
    code = (
        "import os, signal, time\nfrom metaimpute.cli.errors import _interrupted_at_once\n"
        "with _interrupted_at_once():\n"
        "    try:\n        os.kill(os.getpid(), signal.SIGINT); time.sleep(9)\n    except BaseException:\n        pass\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert done.returncode == 130 and done.stderr == b"error: interrupted\n"


def test_output_that_nobody_reads_ends_a_list_without_a_word() -> None:
    process = started("list", "methods")
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert process.wait(60) == 141 and process.stderr.read() == b""


def test_output_that_nobody_reads_stops_a_run_with_a_checkpoint(tmp_path: Path) -> None:
    process = started("run", "two_moons", "--out", str(tmp_path / "r"), "--set", "train.steps=100000")
    assert process.stdout is not None and process.stderr is not None
    process.stderr.readline()
    process.stdout.close()
    assert process.wait(60) == 141
    assert process.stderr.read().decode().splitlines()[-1].startswith("error: stopped at step ")
    assert len(list((tmp_path / "r" / "checkpoints").iterdir())) == 2


def test_output_that_nobody_reads_stops_a_study_with_its_files_written(tmp_path: Path) -> None:
    write_recipe(tmp_path)
    (tmp_path / "s.yaml").write_text(STUDY.replace("seeds: 1", "seeds: 40"))
    process = started("study", str(tmp_path / "s.yaml"), "--jobs", "0", "--out", str(tmp_path / "out"))
    assert process.stdout is not None and process.stderr is not None
    while not process.stdout.readline().startswith(b"seed 0"):
        pass
    process.stdout.close()
    assert process.wait(60) == 141
    said = [line for line in process.stderr.read().decode().splitlines() if not line.startswith("runs: ")]
    assert len(said) == 2 and said[0].startswith("profile ") and said[1].endswith("0 finished, 80 to run"), said
    assert 0 < len(list(tmp_path.glob("out/*/*/result.json"))) < 80
    assert json.loads((tmp_path / "out" / "study.json").read_text())["finished"] is False


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("words", [("--help",), ("list", "methods")])
def test_output_that_cannot_be_written_is_one_line(words: tuple[str, ...]) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "metaimpute", *words], stdout=full, stderr=subprocess.PIPE, check=False
        )
    assert done.returncode == 2 and done.stderr == b"error: No space left on device\n"


def test_a_run_hears_of_it_that_nobody_read_its_first_words(tmp_path: Path) -> None:
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError(32, "Broken pipe")

    called: list[str] = []
    progress = TrainingProgress(screen(file=Gone()), "error %")
    progress.say("a warning of the data")
    assert called == []
    progress.when_unread(lambda: called.append("once"))
    progress.say("more")
    progress.report(1, {"test_error": 3.0})
    assert called == ["once"]


def test_closed_streams_are_no_fault() -> None:
    command = f"{sys.executable} -m metaimpute list methods >&- 2>&-"
    assert subprocess.run(["bash", "-c", command], check=False).returncode == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_a_run_with_a_checkpoint(number: signal.Signals, tmp_path: Path) -> None:
    found = session(write_recipe(tmp_path), tmp_path / "run")
    before = signal.getsignal(number)

    def say(message: str) -> None:
        raise OSError(5, "the terminal is gone")

    found.report = lambda step, values: os.kill(os.getpid(), number) if step == 5 else None
    found.say = say
    with pytest.raises(Interrupted, match="stopped at step 5"):
        found.run()
    assert (tmp_path / "run" / "checkpoints" / "step-00000005.pt").exists() and signal.getsignal(number) is before


def test_a_signal_that_is_ignored_stays_so(tmp_path: Path) -> None:
    """As nohup has it."""
    found = session(write_recipe(tmp_path), tmp_path / "run")
    found.report = lambda step, values: os.kill(os.getpid(), signal.SIGHUP) if step == 5 else None
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert found.run()["steps"] == 30
    finally:
        signal.signal(signal.SIGHUP, before)


def test_two_studies_in_one_folder_do_not_meet(tmp_path: Path) -> None:
    write_recipe(tmp_path)
    (tmp_path / "s.yaml").write_text(STUDY)
    words = ["study", str(tmp_path / "s.yaml"), "--jobs", "0", "--out", str(tmp_path / "out")]
    with locked(tmp_path / "out"):
        done = CliRunner().invoke(main, words)
        assert done.exit_code == 2 and f"{tmp_path / 'out'}: another process runs a study here (process " in done.stderr
        assert CliRunner().invoke(main, [*words, "--check"]).exit_code == 0
    with locked(tmp_path / "out" / "l2i" / "seed0"):
        done = CliRunner().invoke(main, words)
        assert done.exit_code == 1 and "another process is training here" in done.output
    assert not list(tmp_path.rglob("failed.json"))
    assert CliRunner().invoke(main, words).exit_code == 0


@pytest.mark.parametrize("content", ["null", "[]", '{"test_last": 1.0}', "\x00"])
def test_a_study_makes_a_damaged_result_again(content: str, tmp_path: Path) -> None:
    write_recipe(tmp_path)
    (tmp_path / "s.yaml").write_text(STUDY)
    words = ["study", str(tmp_path / "s.yaml"), "--jobs", "0", "--out", str(tmp_path / "out")]
    assert CliRunner().invoke(main, words).exit_code == 0
    path = tmp_path / "out" / "l2i" / "seed0" / "result.json"
    before = json.loads(path.read_text())["test_last"]
    path.write_text(content)
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 0 and "1 to run" in done.output and json.loads(path.read_text())["test_last"] == before

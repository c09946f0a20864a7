"""What a machine can do to a run: kill it at any write, fill its disk, damage its files. Nothing is lost but time."""

from __future__ import annotations

import errno
import json
import os
import random
import resource
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from metaimpute.cli import main
from metaimpute.rundir import checkpoint, files
from metaimpute.rundir.origin import Begun, recipe_of, write_begun
from metaimpute.training.session import Session

from .test_session import same, session, write_recipe

KILLS = 50
forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")


def in_a_child(work: Callable[[], object]) -> int:
    """Runs ``work`` in a forked process and returns its number."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        os.setpgid(0, 0)
        sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115, PTH123
        work()
        status = 0
    except SystemExit as stop:
        status = int(stop.code or 0)
    finally:
        os._exit(status)


def exit_of(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def begin(recipe: Path, folder: Path, *sets: str) -> Session:
    write_begun(folder, Begun(str(recipe), "sample", "asked for"))
    return session(recipe, folder, *sets)


def again(folder: Path) -> Session:
    found = Session(recipe_of(folder), folder, say=lambda message: None)
    found.resume()
    return found


def assert_same_run(one: Path, two: Path) -> None:
    """Weights, averaged weights, optimiser, records and evaluations."""
    left, right = checkpoint.latest(one)[0], checkpoint.latest(two)[0]
    assert left["step"] == right["step"]
    assert same(left["model"], right["model"]) and same(left["averaged"], right["averaged"])
    for a, b in zip(left["optimizer"]["state"].values(), right["optimizer"]["state"].values(), strict=True):
        assert all(torch.equal(torch.as_tensor(a[key]), torch.as_tensor(b[key])) for key in a)
    assert (one / "metrics.jsonl").read_text() == (two / "metrics.jsonl").read_text()
    assert (one / "labels.jsonl").read_text() == (two / "labels.jsonl").read_text()
    results = [json.loads((folder / "result.json").read_text()) for folder in (one, two)]
    assert results[0]["evaluations"] == results[1]["evaluations"]
    assert (one / "model.safetensors").read_bytes() == (two / "model.safetensors").read_bytes()
    assert not list(two.rglob("*.part"))


class Killed(BaseException):
    """As sudden as a signal: no handler of the program sees it."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("whole")
    recipe = write_recipe(folder)
    begin(recipe, folder / "run").run()
    return recipe, folder / "run"


def moments(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The moves of files into their places so far; each is a moment at which a run may die, before it or after it."""
    seen: list[str] = []
    original = Path.replace

    def replace(self: Path, target: Path) -> Path:
        seen.append(f"before {Path(target).name}")
        _die(seen)
        moved = original(self, target)
        seen.append(f"after {Path(target).name}")
        _die(seen)
        return moved

    monkeypatch.setattr(Path, "replace", replace)
    return seen


_deadline: list[int] = []


def _die(seen: list[str]) -> None:
    if _deadline and len(seen) == _deadline[0]:
        raise Killed


def test_a_run_that_dies_at_any_write_goes_on_to_the_same_end(
    whole: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, reference = whole
    seen = moments(monkeypatch)
    begin(recipe, tmp_path / "counted").run()
    total = len(seen)
    assert total >= 16 and any("step-00000030.pt" in one for one in seen) and any("result.json" in one for one in seen)
    for moment in range(3, total + 1):  # the first two are begun.json's, before which there is no run
        folder = tmp_path / str(moment)
        seen.clear()
        _deadline[:] = [moment]
        try:
            with pytest.raises(Killed):
                begin(recipe, folder).run()
        finally:
            _deadline.clear()
        if not (folder / "recipe.resolved.yaml").exists():
            continue
        again(folder).run()
        assert_same_run(reference, folder)


@forks
@pytest.mark.parametrize("limit", [0, 700, 3000, 9000])
def test_a_full_disk_is_one_line_and_the_run_goes_on_when_there_is_room(
    limit: int, whole: tuple[Path, Path], tmp_path: Path
) -> None:
    """A limit on file sizes stands for the full disk: the same error of the operating system at the same calls."""
    recipe, reference = whole
    folder, said = tmp_path / "run", tmp_path / "said"

    def work() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        write = os.open(said, os.O_WRONLY | os.O_CREAT)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        done = CliRunner().invoke(main, ["run", str(recipe), "--out", str(folder)])
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        os.write(write, done.output.encode())
        sys.exit(done.exit_code)

    assert exit_of(in_a_child(work)) == 2
    error = said.read_text().splitlines()[-1]
    assert error.startswith("error: ") and os.strerror(errno.EFBIG) in error and str(folder) in error
    assert "Traceback" not in said.read_text() and not list(folder.rglob("*.part"))
    if checkpoint.existing(folder):
        assert f"--resume {folder}" in error
    if (folder / "recipe.resolved.yaml").exists() and (folder / "begun.json").exists():
        again(folder).run()
        assert_same_run(reference, folder)


@pytest.mark.parametrize("name", ["step-00000030.pt", "result.json", "model.safetensors", "metrics.jsonl"])
def test_an_error_at_one_file_leaves_the_old_one_whole(
    name: str, whole: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, reference = whole
    original, broken = files.os.fsync, [True]

    def fsync(number: int) -> None:
        if broken[0] and name in str(Path(f"/proc/self/fd/{number}").readlink()):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        original(number)

    if not Path("/proc/self/fd").exists():
        pytest.skip("needs /proc")
    monkeypatch.setattr(files.os, "fsync", fsync)
    with pytest.raises(files.Unwritable, match=f"cannot write .*{name}: No space left on device"):
        begin(recipe, tmp_path / "run").run()
    assert not list((tmp_path / "run").rglob("*.part"))
    broken[0] = False
    again(tmp_path / "run").run()
    assert_same_run(reference, tmp_path / "run")


def test_a_folder_that_may_not_be_written_is_named(whole: tuple[Path, Path], tmp_path: Path) -> None:
    if os.geteuid() == 0:
        (tmp_path / "closed").write_text("a file where a folder should be")
    else:
        (tmp_path / "closed").mkdir(mode=0o500)
    done = CliRunner().invoke(main, ["run", str(whole[0]), "--out", str(tmp_path / "closed" / "run")])
    assert done.exit_code == 2 and "closed" in done.output.splitlines()[-1] and "Traceback" not in done.output


@pytest.mark.parametrize("seed", range(12))
def test_a_checkpoint_cut_short_or_altered_is_skipped_with_a_message(
    seed: int, whole: tuple[Path, Path], tmp_path: Path
) -> None:
    """Half of the cases are cut at a random place, half have one byte of a tensor changed, which torch.load would not see."""
    import shutil

    folder, rng = tmp_path / "run", random.Random(seed)
    shutil.copytree(whole[1], folder)
    newest = checkpoint.existing(folder)[-1]
    content = bytearray(newest.read_bytes())
    if seed % 2:
        content = content[: rng.randrange(len(content))]
    else:
        content[len(content) // 2 + rng.randrange(-200, 200)] ^= 0x40
    newest.write_bytes(bytes(content))
    state, path, skipped = checkpoint.latest(folder)
    if bytes(content) != (whole[1] / "checkpoints" / newest.name).read_bytes() and path == newest:
        assert same(state["model"], checkpoint.latest(whole[1])[0]["model"]), "a change between the tensors, read past"
    else:
        assert path != newest and len(skipped) == 1 and f"skipped unreadable checkpoint {newest.name}" in skipped[0]


def test_divergence_leaves_the_steps_diagnostics(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path)
    done = CliRunner().invoke(
        main, ["run", str(recipe), "--out", str(tmp_path / "run"), "--set", "train.optimizer={name: sgd, lr: 1.0e+30}"]
    )
    assert done.exit_code == 4 and "the step's diagnostics: " in done.output
    found = json.loads((tmp_path / "run" / "diverged.json").read_text())
    assert found["lr"] > 1e28 and len(found["labelled_rows"]) == 6 and len(found["unlabelled_rows"]) == 16
    assert found["error"] in done.output and set(found["parameter_norms"]) and found["step"] < 3


def test_a_run_directory_without_a_checkpoint_begins_again(tmp_path: Path, whole: tuple[Path, Path]) -> None:
    folder = tmp_path / "run"
    begin(whole[0], folder)
    (folder / "recipe.resolved.yaml").write_text((whole[1] / "recipe.resolved.yaml").read_text())
    done = CliRunner().invoke(main, ["run", "--resume", str(folder)])
    assert done.exit_code == 0 and "beginning at step 0" in done.output
    assert_same_run(whole[1], folder)


@forks
@pytest.mark.slow
def test_fifty_runs_killed_at_random_moments_end_as_their_twin(tmp_path: Path) -> None:
    """kill -9, again and again until a process gets through; every run ends in the twin's weights, records and result."""
    recipe = write_recipe(tmp_path)
    sets = ("train.steps=150", "train.checkpoint_every=7", "train.eval_every=30", "train.log_every=5")
    started = time.monotonic()
    assert exit_of(in_a_child(lambda: begin(recipe, tmp_path / "twin", *sets).run())) == 0
    length = time.monotonic() - started
    killed = 0
    for number in range(KILLS):
        folder, rng = tmp_path / f"run{number}", random.Random(number)

        def work(folder: Path = folder) -> None:
            if (folder / "recipe.resolved.yaml").exists():
                again(folder).run()
            else:
                begin(recipe, folder, *sets).run()

        for attempt in range(20):
            child = in_a_child(work)
            if attempt < 3:
                time.sleep(rng.uniform(0.0, 0.7 * length))
                os.kill(child, signal.SIGKILL)
            status = exit_of(child)
            if status == 0:
                break
            assert status == -signal.SIGKILL, f"run {number} ended by itself with {status}"
            killed += 1
        assert_same_run(tmp_path / "twin", folder)
    assert killed >= KILLS
    print(f"{KILLS} runs, {killed} kills, all ended in the twin's weights")


def test_a_users_own_files_in_the_folder_are_left_alone(whole: tuple[Path, Path], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    (folder / "checkpoints").mkdir(parents=True)
    mine = [folder / "film.mkv.part", folder / "notes.123.part", folder / "checkpoints" / "film.part"]
    ours = [folder / "result.json.4194304.part", folder / "checkpoints" / "step-00000007.pt.77.part"]
    for path in (*mine, *ours):
        path.write_text("data")
    begin(whole[0], folder).run()
    assert all(path.read_text() == "data" for path in mine) and not any(path.exists() for path in ours)


@forks
def test_two_processes_do_not_train_in_one_folder(whole: tuple[Path, Path], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with files.locked(folder):
        child = in_a_child(lambda: begin(whole[0], folder).run())
        assert exit_of(child) == 1, "it must not have trained"
        with pytest.raises(files.Busy, match=rf"another process is training here \(process {os.getpid()}\)"):
            begin(whole[0], folder).run()
        assert not (folder / "recipe.resolved.yaml").exists()
    begin(whole[0], folder).run()
    assert_same_run(whole[1], folder)


def test_files_of_a_run_are_for_whom_the_user_lets_read(whole: tuple[Path, Path]) -> None:
    modes = {path.name: path.stat().st_mode & 0o777 for path in whole[1].iterdir() if path.is_file()}
    assert modes["model.safetensors"] == modes["metrics.jsonl"] == modes["result.json"]

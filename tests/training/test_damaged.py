"""Run folders from elsewhere: whatever lies in the place of a file, a command ends well or in one line, never in a fault of ours."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.torch import save_file

import metaimpute
from metaimpute.cli import main
from metaimpute.rundir.files import replacing

from ..fake_data import make_own_table

RECIPE = """\
task: {name: own_table, file: FILE, target: target, id: id}
model: {name: mlp, width: 4}
method: {name: mean_teacher}
problem: {name: l2i}
train: {steps: 4, batch: 4, unlabelled_batch: 8, eval_every: 2, log_every: 1, checkpoint_every: 2, threads: 1}
"""
TEXTS = ("result.json", "metrics.jsonl", "labels.jsonl", "task.json", "begun.json", "recipe.resolved.yaml")
BINARIES = ("inputs.skops", "model.safetensors", "checkpoints", "run.lock")


def call(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in arguments])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    table = make_own_table(folder)
    (folder / "r.yaml").write_text(RECIPE.replace("FILE", str(table)))
    assert call("run", folder / "r.yaml", "--out", folder / "run").exit_code == 0
    return folder / "run"


def text(content: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content)


def _torch(path: Path) -> None:
    torch.save({"step": 3, "weights": torch.ones(2)}, path)


def _pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps({"a": print}))


def _zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("schema.json", "null")


def _nested(path: Path) -> None:
    path.write_bytes(b"[" * 2_000)


def _half(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def _bad_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] = 0xFF
    path.write_bytes(bytes(content))


def _fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _dangling(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.parent / "nowhere")


DAMAGES: dict[str, Callable[[Path], object]] = {
    "empty": text(b""), "null": text(b"null\n"), "list": text(b"[1, 2]\n"), "ragged": text(b"[[1, 2], [3]]\n"),
    "mapping": text(b"{}\n"), "number": text(b"3\n"), "word": text(b'"x"\n'), "huge": text(b'{"step": 1' + b"0" * 400 + b"}\n"),
    "nested": _nested, "half": _half, "bad byte": _bad_byte, "torch": _torch, "pickle": _pickle, "zip": _zip,
    "safetensors": lambda path: save_file({"a": torch.ones(3)}, path), "pipe": _fifo, "folder": _folder,
    "gone": lambda path: path.unlink(), "link": _dangling,
}  # fmt: skip


def check(folder: Path, tmp_path: Path) -> dict[str, Result]:
    """Every command that reads a run's folder; what each made of it."""
    table = folder.parent / "whole" / "my_table.csv"
    done = {
        "compare": call("compare", folder),
        "report": call("report", folder, "--out", tmp_path / "page.html"),
        "impute": call("impute", folder, "--out", tmp_path / "labels.csv"),
        "predict": call("predict", folder, table, "--out", tmp_path / "new.csv"),
        "resume": call("run", "--resume", folder),
    }
    for name, result in done.items():
        said = result.output + result.stderr
        assert result.exit_code in (0, 2), f"{name}: {said}"
        assert "internal:" not in said and "Traceback" not in said, f"{name}: {said}"
        if result.exit_code == 2:
            errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
            assert len(errors) == 1 and str(folder) in errors[0], f"{name}: {said}"
    return done


def copied(whole: Path, tmp_path: Path) -> Path:
    shutil.copytree(whole.parent, tmp_path / "whole")
    return shutil.copytree(whole, tmp_path / "run")


WORDS = (
    "empty",
    "null",
    "list",
    "ragged",
    "mapping",
    "huge",
    "nested",
    "half",
    "bad byte",
    "torch",
    "pipe",
    "folder",
    "gone",
)
BYTES = ("empty", "null", "half", "bad byte", "torch", "pickle", "zip", "safetensors", "pipe", "folder", "gone", "link")
CASES = [(name, damage) for names, kinds in ((TEXTS, WORDS), (BINARIES, BYTES)) for name in names for damage in kinds]


@pytest.mark.parametrize(("name", "damage"), CASES)
def test_a_damaged_or_foreign_file_is_one_line(name: str, damage: str, whole: Path, tmp_path: Path) -> None:
    folder = copied(whole, tmp_path)
    for path in sorted((folder / name).iterdir()) if name == "checkpoints" else [folder / name]:
        DAMAGES[damage](path)
    said = str(folder)
    try:
        metaimpute.load(folder)
    except (ValueError, RuntimeError) as error:
        said = str(error)
    assert str(folder) in said
    check(folder, tmp_path)


KEYS = {"test_last": "x", "seed": -1, "confusion": [[1], [2, 3]], "label_names": [1, 2], "calibration": [],
        "environment": {}, "source": ["a"], "test_measures": {"a": 3}, "steps": True}  # fmt: skip


@pytest.mark.parametrize("key", KEYS)
def test_a_result_of_another_shape_names_the_key(key: str, whole: Path, tmp_path: Path) -> None:
    folder = copied(whole, tmp_path)
    result = json.loads((folder / "result.json").read_text())
    (folder / "result.json").write_text(json.dumps(result | {key: KEYS[key]}))
    for name in ("compare", "report"):
        done = call(name, folder)
        assert done.exit_code == 2 and f"{folder / 'result.json'} is damaged: {key}" in done.stderr, done.output
    del result[key]
    (folder / "result.json").write_text(json.dumps(result))
    assert call("compare", folder).exit_code in (0, 2) and "internal" not in call("report", folder).stderr


def test_a_run_beside_a_damaged_one_is_still_compared(whole: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        shutil.copytree(whole, tmp_path / name)
    (tmp_path / "b" / "result.json").write_text("null")
    (tmp_path / "a" / "metrics.jsonl").write_bytes(b"\xff")
    done = call("compare", tmp_path)
    assert done.exit_code == 0 and f"skipped: {tmp_path / 'b' / 'result.json'} is damaged" in done.output
    done = call("report", tmp_path / "a")
    assert done.exit_code == 2 and "metrics.jsonl:1 is damaged: byte 1 is not UTF-8" in done.stderr


def test_damaged_records_are_set_aside_and_the_run_goes_on(whole: Path, tmp_path: Path) -> None:
    folder = copied(whole, tmp_path)
    last = (folder / "checkpoints" / "step-00000004.pt").rename(tmp_path / "later")
    before = (folder / "metrics.jsonl").read_bytes()
    lines = before.splitlines(keepends=True)
    lines[1] = b"\xff" + lines[1]
    (folder / "metrics.jsonl").write_bytes(b"".join(lines))
    done = call("run", "--resume", folder)
    assert done.exit_code == 0 and "resumed from step-00000002.pt" in done.output, done.output
    assert f"left out 1 damaged line of {folder / 'metrics.jsonl'}" in done.output
    assert (folder / "metrics.jsonl.damaged").read_bytes() == b"".join(lines)
    kept = [line for place, line in enumerate(before.splitlines()) if place != 1]
    assert (folder / "metrics.jsonl").read_bytes().splitlines() == kept
    assert last.exists()


def test_a_foreign_newest_checkpoint_is_skipped_for_the_one_before(whole: Path, tmp_path: Path) -> None:
    folder = copied(whole, tmp_path)
    _torch(folder / "checkpoints" / "step-00000004.pt")
    done = call("run", "--resume", folder)
    assert done.exit_code == 0, done.output
    assert "skipped unreadable checkpoint step-00000004.pt: ValueError: not the state of a run" in done.output
    assert "resumed from step-00000002.pt" in done.output


@pytest.mark.parametrize("change", ["method", "outer", "step"])
def test_a_checkpoint_of_another_run_is_refused(change: str, whole: Path, tmp_path: Path) -> None:
    folder = copied(whole, tmp_path)
    for path in (folder / "checkpoints").iterdir():
        state = torch.load(path, weights_only=True)
        if change == "method":
            state["method"]["teacher"] = {name: value[..., :1] for name, value in state["method"]["teacher"].items()}
        elif change == "outer":
            state["schedulers"] = []
        else:
            state["step"] = 99
        torch.save(state, path)
    done = call("run", "--resume", folder)
    assert done.exit_code == 2 and "the checkpoint belongs to another model or optimizer" in done.stderr


def test_a_users_checkpoints_are_neither_taken_nor_deleted(whole: Path, tmp_path: Path) -> None:
    folder = copied(whole, tmp_path)
    mine = folder / "checkpoints" / "step-best.pt"
    mine.write_text("mine")
    assert call("run", "--resume", folder).exit_code == 0 and mine.read_text() == "mine"


@pytest.mark.parametrize("how", ["gone", "file", "closed"])
def test_checkpoints_that_cannot_be_listed_are_no_reason_to_begin_anew(
    how: str, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copied(whole, tmp_path)
    before = (folder / "metrics.jsonl").read_bytes()
    if how == "closed":
        listed = Path.iterdir

        def closed(path: Path) -> object:
            if path.name == "checkpoints":
                raise PermissionError(13, "Permission denied")
            return listed(path)

        monkeypatch.setattr(Path, "iterdir", closed)
    else:
        shutil.rmtree(folder / "checkpoints")
        if how == "file":
            (folder / "checkpoints").write_text("")
    done = call("run", "--resume", folder)
    said = {
        "gone": "holds no checkpoint, although",
        "file": "cannot be listed: Not a directory",
        "closed": "Permission",
    }
    assert done.exit_code == 2 and said[how] in done.stderr and str(folder / "checkpoints") in done.stderr
    assert (folder / "metrics.jsonl").read_bytes() == before


@pytest.mark.parametrize("name", ["run.lock", "checkpoints"])
def test_a_link_is_refused_and_what_it_leads_to_is_whole(name: str, whole: Path, tmp_path: Path) -> None:
    folder = copied(whole, tmp_path)
    mine = tmp_path / "mine"
    (folder / name).rename(mine)
    if name == "run.lock":
        mine.write_text("a letter")
    before = {path.name: path.read_bytes() for path in (mine.iterdir() if mine.is_dir() else [mine])}
    (folder / name).symlink_to(mine)
    done = call("run", "--resume", folder)
    assert done.exit_code == 2 and f"{folder / name} is a symbolic link, which a run does not follow" in done.stderr
    assert {path.name: path.read_bytes() for path in (mine.iterdir() if mine.is_dir() else [mine])} == before


@pytest.mark.parametrize("name", [*TEXTS, "inputs.skops", "model.safetensors"])
def test_no_file_is_written_over_a_link_in_the_folder_or_through_it(name: str, whole: Path, tmp_path: Path) -> None:
    folder = copied(whole, tmp_path)
    mine = (folder / name).rename(tmp_path / f"mine-{name}")
    (folder / name).symlink_to(mine)
    (folder / f"result.json.{os.getpid()}.part").symlink_to(mine)
    before = mine.read_bytes()
    done = call("run", "--resume", folder)
    refused = f"{folder / name} is a symbolic link" in done.stderr
    assert done.exit_code == (2 if refused else 0), done.stderr
    assert (folder / name).is_symlink() and mine.read_bytes() == before


def test_a_new_run_does_not_begin_in_linked_checkpoints(whole: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "step-00000001.pt").write_text("mine")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoints").symlink_to(mine)
    done = call("run", whole.parent / "r.yaml", "--out", tmp_path / "run")
    assert done.exit_code == 2 and "is a symbolic link, which a run does not follow" in done.stderr
    assert [path.read_text() for path in mine.iterdir()] == ["mine"]
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["checkpoints"]


def test_a_file_is_not_written_through_a_link_in_the_place_of_its_draft(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    (tmp_path / f"labels.csv.{os.getpid()}.part").symlink_to(tmp_path / "mine")
    with replacing(tmp_path / "labels.csv") as partial:
        partial.write_text("labels")
    assert (tmp_path / "mine").read_text() == "mine" and (tmp_path / "labels.csv").read_text() == "labels"
    assert not (tmp_path / "labels.csv").is_symlink()


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (os.mkfifo, "is no regular file"),
        (os.mkdir, "is a folder"),
        (lambda path: path.symlink_to("gone"), "is a symbolic link"),
    ],
    ids=["pipe", "folder", "link"],
)
def test_only_a_file_is_replaced(make: Callable[[Path], object], said: str, whole: Path, tmp_path: Path) -> None:
    target = tmp_path / "target.csv"
    make(target)
    before = target.lstat()
    table = whole.parent / "my_table.csv"
    for arguments in (
        ("init", "table", table, "--force", "--out", target),
        ("predict", whole, table, "--out", target),
        ("impute", whole, "--out", target),
    ):
        done = call(*arguments)
        assert done.exit_code == 2 and f"{target} {said}" in done.stderr and "\n" not in done.stderr.strip(), (
            done.output
        )
        assert (target.lstat().st_ino, target.lstat().st_mode) == (before.st_ino, before.st_mode)


def test_a_lock_that_is_another_file_is_not_emptied(whole: Path, tmp_path: Path) -> None:
    folder = copied(whole, tmp_path)
    (folder / "run.lock").write_text("dear diary")
    done = call("run", "--resume", folder)
    assert done.exit_code == 2 and "is not the lock of a run" in done.stderr
    assert (folder / "run.lock").read_text() == "dear diary"


def test_weights_that_are_not_finite_predict_nothing(whole: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    folder = copied(whole, tmp_path)
    weights = {
        name: torch.full_like(value, float("nan")) for name, value in load_file(folder / "model.safetensors").items()
    }
    save_file(weights, folder / "model.safetensors")
    (folder / "result.json").unlink()
    done = call("predict", folder, whole.parent / "my_table.csv")
    assert done.exit_code == 2 and "holds weights that are not finite" in done.stderr


def test_weights_with_one_altered_byte_predict_nothing(whole: Path, tmp_path: Path) -> None:
    folder = copied(whole, tmp_path)
    before = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(before[:-2] + bytes([before[-2] ^ 1]) + before[-1:])
    done = call("predict", folder, whole.parent / "my_table.csv")
    assert done.exit_code == 2 and "model.safetensors has changed since the run wrote it" in done.stderr
    assert call("run", "--resume", folder).exit_code == 0
    assert (folder / "model.safetensors").read_bytes() == before
    assert call("predict", folder, whole.parent / "my_table.csv").exit_code == 0


@pytest.mark.parametrize("command", ["impute", "predict"])
def test_a_device_that_is_not_here_is_named(command: str, whole: Path) -> None:
    more = [whole.parent / "my_table.csv"] if command == "predict" else []
    done = call(command, whole, *more, "--device", "warp")
    assert done.exit_code == 2 and "device 'warp' is not available" in done.stderr

"""Batches that worker processes prepare are those of the run's own process, and what goes wrong there is said as here."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from metaimpute import recipes
from metaimpute.engine.pytree import leaves_of
from metaimpute.recipes.shipped import locate
from metaimpute.recipes.source import RecipeError
from metaimpute.tasks.base import Missing, MissingData, TaskError, register_task, tasks
from metaimpute.tasks.digits import Digits
from metaimpute.training.ahead import Ahead, Failure, WorkerDied
from metaimpute.training.assemble import assemble, take_step
from metaimpute.training.session import Session

from .. import fake_data

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="workers are forks")
SMALL = (
    "task={name: digits, labels: 20, validation: 0}", "model={name: mlp, width: 6}", "train.steps=6", "train.batch=8",
    "train.unlabelled_batch=8", "train.device=cpu", "train.eval_every=6", "train.log_every=1",
)  # fmt: skip


def recipe(*sets: str, name: str = "digits_fixmatch", small: tuple[str, ...] = SMALL) -> Any:
    return recipes.load(locate(Path(name)), "sample", (*small, *sets))


def tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif is_dataclass(value) and not isinstance(value, type):
        for one in fields(value):
            yield from tensors(getattr(value, one.name))
    elif isinstance(value, tuple | list | dict):
        for leaf in leaves_of(value):
            if not isinstance(leaf, dict | list | tuple):
                yield from tensors(leaf)


def equal(left: Any, right: Any) -> bool:
    one, two = list(tensors(left)), list(tensors(right))
    return len(one) == len(two) > 0 and all(
        a.dtype == b.dtype and torch.equal(a, b) for a, b in zip(one, two, strict=True)
    )


def batches(chosen: Any, workers: int, steps: tuple[int, ...] = (0, 1, 2)) -> list[Any]:
    parts = assemble(chosen, lambda line: None)
    ahead = Ahead(parts.batches, workers, True, 6)
    try:
        return [ahead(step) for step in steps]
    finally:
        ahead.close()


def folder_of_images(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    for part, count in (("train", 8), ("val", 2)):
        for kind in ("cat", "dog"):
            (folder / part / kind).mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 255, (20 + number, 18, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / part / kind / f"{number}.png")
    return folder


def cases(tmp_path: Path) -> dict[str, Any]:
    images = folder_of_images(tmp_path / "images")
    folder = f"task={{name: image_folder, folder: {images}, labels: 4, validation: 0, size: 16}}"
    table = f"task={{name: own_table, file: {fake_data.make_own_table(tmp_path)}, target: target}}"
    text = f"task={{name: own_text, file: {fake_data.make_own_text(tmp_path)}, copies: null}}"
    return {
        "images": recipe(folder, "model={name: cnn, width: 4}"),
        "views on the device": recipe(folder, "model={name: cnn, width: 4}", "train.views=device"),
        "tables": recipe(table, "method={name: mean_teacher}"),
        "texts": recipe(text, "model={name: minilm, layers: 1, weights: random}", "method={name: uda}"),
        "folds": recipe("problem={name: l2i, estimator: approx, holdout: folds(2), inner: {lr: 0.1}}"),
    }


def test_workers_make_the_batches_of_the_run_itself(tmp_path: Path) -> None:
    for name, chosen in cases(tmp_path).items():
        alone = batches(chosen, 0)
        assert equal(alone, batches(chosen, 2)), name
        assert not equal(alone[0], alone[1]), "and no two steps are alike"
        assert equal(alone[2], batches(chosen, 1, (2,))[0]), f"{name}: begun at a later step"


def test_workers_may_be_begun_after_threads_have_computed() -> None:
    before, chosen = torch.get_num_threads(), recipe("problem={name: l2i, estimator: approx}", "train.threads=2")
    try:
        torch.set_num_threads(2)
        wide = torch.randn(700, 700, generator=torch.Generator().manual_seed(0))
        assert bool((wide @ wide).sin().sum().isfinite()), "OpenMP's threads are there now, and not in a fork"
        assert equal(batches(chosen, 0), batches(chosen, 2)) and torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_views_on_the_device_are_those_of_the_host(tmp_path: Path) -> None:
    found = cases(tmp_path)
    assert equal(batches(found["images"], 0), batches(found["views on the device"], 0))


def test_a_run_with_workers_ends_on_the_same_bits_after_a_resume_too(tmp_path: Path) -> None:
    def of(folder: str, *sets: str, stop: int = 0) -> dict[str, Tensor]:
        run = Session(recipe("problem={name: l2i, estimator: approx}", *sets), tmp_path / folder, say=lambda line: None)
        if (tmp_path / folder).exists():
            run.resume()
        if stop:
            while run.step < stop:
                take_step(run.parts, run.recipe, run.step)
                run.step += 1
            (tmp_path / folder).mkdir()
            run.save()
            run.parts.ahead.close()
        else:
            run.run()
        return run.weights()

    plain = of("plain")
    of("two", "train.workers=2", stop=3)
    resumed = of("two", "train.workers=1")
    assert all(torch.equal(value, resumed[name]) for name, value in plain.items())


@register_task("failing_digits")
@dataclass
class FailingDigits(Digits):
    """Digits whose views go wrong in a way of one's choice."""

    how: str = ""

    def view(self, raw: Any, kind: Any, generator: torch.Generator) -> Any:
        if self.how == "refuses":
            raise TaskError("labels: the views of these cannot be made")
        if self.how == "breaks":
            raise ZeroDivisionError("nothing to divide by")
        if self.how == "hands over no data":
            return {"inputs": super().view(raw, kind, generator), "extra": threading.Lock()}
        if self.how == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        return super().view(raw, kind, generator) + torch.rand(())  # the process's own generator


@pytest.fixture(scope="module", autouse=True)
def _registered() -> Iterator[None]:
    yield
    tasks._entries.pop("failing_digits", None)


def failing(how: str, workers: int = 1) -> Any:
    return recipe(f"task={{name: failing_digits, labels: 20, validation: 0, how: {how}}}", f"train.workers={workers}")


@pytest.mark.parametrize(
    ("how", "kind", "said"),
    [
        ("refuses", TaskError, "^labels: the views of these cannot be made$"),
        ("breaks", ZeroDivisionError, "^nothing to divide by$"),
        (
            "hands over no data",
            TaskError,
            "^a view holds a lock, which no worker process can hand over; set train.workers to 0$",
        ),
    ],
)
def test_an_error_in_a_worker_is_raised_here_as_it_was_there(how: str, kind: type[Exception], said: str) -> None:
    chosen = failing(how)
    parts = assemble(chosen, lambda line: None)
    with pytest.raises(kind, match=said):
        take_step(parts, chosen, 0)


def test_a_worker_that_is_killed_ends_the_run_in_a_line_with_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits = torch.utils.data.dataloader._MultiProcessingDataLoaderIter._try_get_data
    monkeypatch.setattr(waits, "__defaults__", (0.2,))  # seconds between two looks at the workers, 5 by default
    before = signal.getsignal(signal.SIGCHLD)
    run = Session(failing("dies"), tmp_path / "run", say=lambda line: None)
    said = r"stopped at step 0: a process that prepared batches was ended by SIGKILL \(short of memory\?\); train.workers: 0 "
    with pytest.raises(WorkerDied, match=said + "does without them; continue with --resume"):
        run.run()
    assert list((tmp_path / "run" / "checkpoints").iterdir()) and signal.getsignal(signal.SIGCHLD) == before


def test_what_a_task_draws_from_the_process_is_the_same_in_workers_and_leaves_it_alone() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    alone, ahead = batches(failing("''", 0), 0), batches(failing("''", 0), 2)
    assert equal(alone, ahead) and torch.equal(before, torch.get_rng_state())


def test_errors_are_handed_over_whatever_their_class() -> None:
    class Local(RuntimeError):
        pass

    class LocalTask(TaskError):
        pass

    absent = MissingData(Missing("data", ("here",), "get it"))
    for error in (absent, FileNotFoundError(2, "No such file", "a.png"), KeyError("x"), TaskError("size: no")):
        made = Failure(error).error()
        assert type(made) is type(error) and str(made) == str(error)
    assert isinstance(found := Failure(absent).error(), MissingData) and found.missing[0].remedy == "get it"
    assert str(Failure(Local("why")).error()) == "Local: why"
    assert isinstance(found := Failure(LocalTask("size: no")).error(), TaskError) and str(found) == "size: no"
    assert "invalid start byte" in str(Failure(UnicodeDecodeError("utf-8", b"x", 0, 1, "invalid start byte")).error())


@pytest.mark.parametrize(
    ("sets", "said"),
    [
        (("train.workers=-1",), "train.workers: should be greater than or equal to 0"),
        (("train.views=gpu",), "train.views: should be 'host' or 'device'"),
        (("train.views=device",), "train.views: task 'digits' makes its views on the host alone; leave it out"),
        (
            ("train.workers=2", "model={name: patches}"),
            "train.workers: the features of model 'patches' are computed once, in the run's own process; leave it out",
        ),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(sets: tuple[str, ...], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        recipe(*sets)


def test_a_process_that_is_a_worker_itself_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(multiprocessing.current_process(), "_config", {"daemon": True})
    assert assemble(recipe("train.workers=2"), said.append).ahead.workers == 0
    assert said == [
        "note: batches are prepared in the run's own process, as it is one of several at work (train.workers)"
    ]


@pytest.mark.slow
def test_no_worker_outlives_a_run_that_is_killed(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "metaimpute", "run", "digits_fixmatch", "--out", str(tmp_path / "run")]
    for setting in (*SMALL, "train.steps=100000", "train.workers=2"):
        command += ["--set", setting]
    run = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    children: list[str] = []
    while len(children) < 2 and run.poll() is None:
        time.sleep(0.2)
        children = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()
    run.kill()
    run.wait()
    until = time.monotonic() + 60
    while any(Path(f"/proc/{child}").exists() for child in children) and time.monotonic() < until:
        time.sleep(0.2)
    assert len(children) == 2 and not any(Path(f"/proc/{child}").exists() for child in children)


@pytest.mark.slow
def test_ctrl_c_reaches_workers_too_and_ends_the_run_with_a_checkpoint(tmp_path: Path) -> None:
    """A terminal sends it to the run and to its workers, all at once."""
    command = [sys.executable, "-m", "metaimpute", "run", "digits_fixmatch", "--out", str(tmp_path / "run")]
    for setting in (*SMALL, "train.steps=100000", "train.workers=2", "train.log_every=1"):
        command += ["--set", setting]
    run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
    log = tmp_path / "run" / "metrics.jsonl"
    while run.poll() is None and not (log.exists() and log.stat().st_size):
        time.sleep(0.2)
    children = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()
    os.killpg(run.pid, signal.SIGINT)
    _, error = run.communicate(timeout=120)
    assert run.returncode == 130 and b"Traceback" not in error, error.decode()
    assert b"stopped at step" in error and list((tmp_path / "run" / "checkpoints").glob("step-*.pt"))
    assert len(children) == 2 and not any(Path(f"/proc/{child}").exists() for child in children)

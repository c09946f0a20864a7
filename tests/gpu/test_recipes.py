"""Recipes on the device: one for each kind of task trains, and a run that was cut goes on to the same bits."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

for package in ("pydantic", "skops", "click", "sklearn"):
    pytest.importorskip(package)

from click.testing import CliRunner
from safetensors.torch import save_file

import metaimpute
from metaimpute import recipes
from metaimpute.cli import main
from metaimpute.rundir import export
from metaimpute.training.session import Interrupted, Session

from .. import fake_data
from ..test_recipe_runs import make_bert
from .cases import on_the_cpu
from .conftest import ASKED, needs_whole_device

FOLDER = Path(__file__).parents[2] / "recipes"
SHORT = ("train.steps=4", "train.eval_every=2", "train.log_every=1", "train.checkpoint_every=2", "train.threads=1")
SMALL = ("train.batch=6", "train.unlabelled_batch=8")
L2I = "problem={name: l2i, estimator: mixed, form: released, inner: {lr: 0.01}}"


def values(folder: Path) -> None:
    fake_data.make_own_table(folder, values=True)


def texts(folder: Path) -> None:
    pytest.importorskip("transformers")
    needs_whole_device()
    fake_data.make_imdb(folder)
    make_bert(folder)


# kind of task -> recipe, data it needs, overrides
KINDS: dict[str, tuple[str, Callable[[Path], Any], tuple[str, ...]]] = {
    "moons": ("two_moons", lambda folder: None, ()),
    "images": ("digits_mean_teacher", lambda folder: None, ()),
    "a table": ("own_table", fake_data.make_own_table, ("choose=null", L2I, "method.threshold=0")),
    "values": ("own_table", values, ("choose=null", L2I, "method={name: mean_teacher, weight: 1, ramp: 0.4}")),
    "landmarks": (
        "aflw_mean_teacher_l2i", lambda folder: None,
        ("task={name: drawn_faces, faces: 60, label_share: 0.3, validation: 20}",),
    ),
    "texts": (
        "imdb_uda", texts,
        ("task={name: imdb, labels: 6, unlabelled: 16}", "model={name: bert-base-uncased, length: 12}", "method.threshold=0"),
    ),
    "image files": ("own_images", fake_data.make_own_images, ("choose=null", L2I, "model={name: cnn, width: 8}", "method.threshold=0")),
}  # fmt: skip


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No data but what the test makes."""
    monkeypatch.setenv("METAIMPUTE_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("METAIMPUTE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    if ASKED == "sham":  # what writes tensors reads the memory of storages, and a sham tensor's is elsewhere
        state = Session.state
        monkeypatch.setattr(Session, "state", lambda self: on_the_cpu(state(self)))
        monkeypatch.setattr(export, "save_model", lambda module, path: save_file(on_the_cpu(module.state_dict()), path))


def sets_of(kind: str) -> tuple[Path, tuple[str, ...]]:
    recipe, make, sets = KINDS[kind]
    if not Path("data").exists():
        Path("data").mkdir()
        make(Path("data").resolve())
    return FOLDER / f"{recipe}.yaml", (*sets, *SHORT, *SMALL)


@pytest.mark.parametrize("kind", KINDS)
def test_a_recipe_of_every_kind_of_task_trains_on_the_device(kind: str, device: torch.device) -> None:
    path, sets = sets_of(kind)
    where = f"train.device={ASKED or 'auto'}"
    arguments = ["run", str(path), "--profile", "sample", "--out", "out", *(f"--set={one}" for one in (*sets, where))]
    done = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    result = json.loads(Path("out/result.json").read_text())
    assert result["steps"] == 4 and result["environment"]["device"].startswith(device.type)
    lines = [json.loads(line) for line in Path("out/metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "loss" in line]
    assert len(steps) == 4 and all(math.isfinite(value) for step in steps for value in step.values())
    assert max(step["hypergradient_norm"] for step in steps) > 0


def session(kind: str, folder: str, device: torch.device, *more: str) -> Session:
    path, sets = sets_of(kind)
    return Session(
        recipes.load(path, "sample", (*sets, f"train.device={device}", *more)), Path(folder), say=lambda line: None
    )


def same(left: dict[str, Any], right: dict[str, Any]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[n], right[n]) for n in left)


@pytest.mark.parametrize("kind", ["moons", "images", "a table", "landmarks", "texts"])
@pytest.mark.usefixtures("reproducible")
def test_a_run_that_was_cut_goes_on_to_the_same_bits(kind: str, device: torch.device) -> None:
    whole = session(kind, "whole", device)
    whole.run()
    first = session(kind, "cut", device)
    one_step = first._one_step

    def stop_after(log: Any) -> None:
        one_step(log)
        if first.step == 3:
            first.stop()

    first._one_step = stop_after  # type: ignore[method-assign]
    with pytest.raises(Interrupted, match="stopped at step 3"):
        first.run()
    torch.rand(100, device=device)
    second = session(kind, "cut", device)
    second.resume()
    second.run()
    assert second.module is not whole.module and same(whole.weights(), second.weights())
    assert Path("whole/metrics.jsonl").read_text() == Path("cut/metrics.jsonl").read_text()


def test_a_model_trained_on_the_device_predicts_on_the_cpu(device: torch.device) -> None:
    found = session("moons", "out", device)
    found.run()
    points = torch.randn(20, 2, generator=torch.Generator(device="cpu").manual_seed(0), device="cpu")
    predictor = metaimpute.load("out", device="cpu")
    with torch.no_grad():
        raw = found.evaluated_module()(points.to(device)).softmax(-1).cpu()
    torch.testing.assert_close(
        torch.as_tensor(predictor.predict_proba(points), dtype=raw.dtype), raw, rtol=1e-3, atol=1e-4
    )


def test_a_table_is_imputed_on_the_device_by_three_lines(device: torch.device) -> None:
    import numpy as np

    rows = np.random.default_rng(0).normal(size=(80, 3))
    labels = np.where(np.arange(80) < 20, rows[:, 0] > 0, -1)
    found = metaimpute.MetaImputer(systems="network", problem="l2i", steps=40, random_state=0, device=str(device))
    assert float(np.mean(found.fit(rows, labels).predict(rows) == (rows[:, 0] > 0))) > 0.8

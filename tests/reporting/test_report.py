"""metaimpute report: the table, Fig. 2 and Fig. 3 from run directories, and plain words where there is nothing to draw."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from metaimpute import recipes
from metaimpute.cli import main
from metaimpute.reporting.figures import WATCHED, smoothed
from metaimpute.reporting.runs import read_run
from metaimpute.training.session import Session

RECIPES = Path(__file__).parents[2] / "recipes"
FACES = ("task.faces=60", "task.validation=10", "task.label_share=0.2")
SMALL = (
    "train.steps=4", "train.batch=4", "train.unlabelled_batch=4", "train.eval_every=2", "train.log_every=1", "train.threads=1",
)  # fmt: skip


def trained(name: str, folder: Path, *sets: str) -> Session:
    recipe = recipes.load(RECIPES / name, "sample", (*SMALL, *(FACES if "aflw" in name else ()), *sets))
    session = Session(recipe, folder, say=lambda message: None)
    session.run()
    return session


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base run and an L2I run on the same drawn faces, and an L2I run that watched nothing."""
    folder = tmp_path_factory.mktemp("runs")
    trained("aflw_mean_teacher.yaml", folder / "base")
    trained("aflw_mean_teacher_l2i.yaml", folder / "l2i", "train.watch_test=6")
    trained("digits_mean_teacher.yaml", folder / "digits")
    return folder


def report(*arguments: object) -> tuple[int, str]:
    done = CliRunner().invoke(main, ["report", *map(str, arguments)])
    return done.exit_code, done.output


def test_losses_around_label_updates_are_logged_and_change_nothing(runs: Path, tmp_path: Path) -> None:
    lines = [json.loads(line) for line in (runs / "l2i" / "metrics.jsonl").read_text().splitlines()]
    watched = [line for line in lines if WATCHED[0] in line]
    assert len(watched) == 4 and all(line[key] > 0 for line in watched for key in WATCHED)
    assert any(line[WATCHED[0]] != line[WATCHED[1]] for line in watched), "the update must lie between the two"
    seen = read_run(runs / "l2i").restored()
    blind = trained("aflw_mean_teacher_l2i.yaml", tmp_path / "blind")
    for name, value in blind.weights().items():
        torch.testing.assert_close(value, seen.weights()[name], rtol=0, atol=0)


def test_a_table_and_both_figures_from_two_runs_on_faces(runs: Path, tmp_path: Path) -> None:
    code, output = report(runs / "base", runs / "l2i", "--out", tmp_path)
    assert code == 0, output
    assert "mean_teacher + l2i (approx)" in output and "landmark error %" in output
    for name in ("label_updates_l2i.png", "faces.png"):
        assert f"wrote {tmp_path / name}" in output.replace("\n", "")
        with Image.open(tmp_path / name) as picture:
            assert picture.width > 800 and len(picture.convert("RGB").getcolors(1 << 24) or []) > 50
    assert not (tmp_path / "label_updates_base.png").exists()


def test_what_cannot_be_drawn_is_said(runs: Path, tmp_path: Path) -> None:
    code, output = report(runs / "digits", "--out", tmp_path)
    assert code == 0 and "no Fig. 2" in output and "train.watch_test=300" in output and "Fig. 3" not in output
    code, output = report(runs / "l2i", runs / "digits", "--out", tmp_path)
    assert code == 0 and output.count("system") == 2, "two metrics, two tables"
    assert f"wrote {tmp_path / 'faces.png'}" in output.replace("\n", ""), "the run on faces alone"


def test_folders_that_are_no_finished_runs_are_named(runs: Path, tmp_path: Path) -> None:
    code, output = report(tmp_path)
    assert code == 2 and f"{tmp_path} is not a run directory" in output.replace("\n", " ")
    (tmp_path / "recipe.resolved.yaml").write_text("{}")
    code, output = report(tmp_path)
    assert code == 2 and "is not finished" in output
    (tmp_path / "result.json").write_text("{")
    code, output = report(tmp_path)
    assert code == 2 and "is damaged" in output


def test_smoothing_is_a_trailing_mean() -> None:
    assert smoothed([1.0, 3.0, 5.0, 7.0], 2) == [1.0, 2.0, 4.0, 6.0]

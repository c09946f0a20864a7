"""metaimpute report: the table, Fig. 2 and Fig. 3 from run directories, and plain words where there is nothing to draw."""

from __future__ import annotations

import json
import re
import shutil
import statistics
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from metaimpute import recipes
from metaimpute.cli import main
from metaimpute.reporting.console import spread, title_of
from metaimpute.reporting.figures import WATCHED, smoothed
from metaimpute.reporting.runs import Run, by_system, read_run
from metaimpute.training.session import Session

from .made import result_with

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
    html = (tmp_path / "report.html").read_text()
    assert "data:image/png;base64," in html and "Label updates" in html and "landmark error %" in html


def test_a_page_without_the_faces_says_why(runs: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(runs / "base", moved, ignore=shutil.ignore_patterns("checkpoints"))
    code, output = report(moved)
    html = (moved / "report.html").read_text()
    assert code == 0 and "Not drawn:" in html and "data:image" not in html, output


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


def test_a_folder_of_runs_is_read_whole_and_seeds_of_a_system_share_a_column(runs: Path, tmp_path: Path) -> None:
    """Runs that are not finished are named and left out; figures that nobody asked for are not missed aloud."""
    (tmp_path / "all").mkdir()
    (tmp_path / "all" / "a").symlink_to(runs / "digits")
    trained("digits_mean_teacher.yaml", tmp_path / "all" / "b", "train.seed=1", "train.log_every=2")
    trained("digits_mean_teacher.yaml", tmp_path / "all" / "c", "problem.name=none")
    (tmp_path / "all" / "d").mkdir()
    (tmp_path / "all" / "d" / "recipe.resolved.yaml").write_text("{}")
    (tmp_path / "all" / "notes").mkdir()
    code, output = report(tmp_path / "all", "--out", tmp_path / "out")
    assert code == 0, output
    assert f"skipped: {tmp_path / 'all' / 'd'} is not finished" in output.replace("\n", " ")
    assert "no Fig. 2" not in output
    errors = [read_run(tmp_path / "all" / name).result["test_last"] for name in "abc"]
    both = f"{statistics.mean(errors[:2]):.2f} ± {statistics.stdev(errors[:2]):.2f}"
    row = next(line for line in output.splitlines() if "test error %" in line)
    assert [cell.strip() for cell in re.split("[│┃|]", row)[2:4]] == [both, f"{errors[2]:.2f}"]
    assert "sample, 2 seeds, 4" in output and "sample, 0, 4" in output


def test_a_folder_without_a_finished_run_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "recipe.resolved.yaml").write_text("{}")
    code, output = report(tmp_path)
    assert code == 2 and f"no run in {tmp_path} is finished" in output.replace("\n", " ")


def made(name: str, seed: int, error: float | None = 1.0, **settings: object) -> Run:
    result = {"source": "s", "profile": "paper", "labels": 4, "unlabelled": 5, "test_examples": 6, "seed": seed}
    train = {"seed": seed, "threads": seed + 1, "steps": settings.pop("steps", 9)}
    return Run(
        Path(name), result_with(**result, test_last=error), [], {"about": {"title": name}, "train": train, **settings}
    )


def test_systems_differ_in_anything_but_seed_conduct_and_title() -> None:
    runs = [made("a", 3), made("b", 1), made("c", 1), made("d", 1, steps=8), made("e", 2, method={"name": "uda"})]
    assert [[run.folder.name for run in group] for group in by_system(runs)] == [["b", "a"], ["c"], ["d"], ["e"]]


def test_spread_is_mean_and_sample_deviation_and_never_hides_a_missing_value() -> None:
    assert spread([3.0]) == "3.00" and spread([1.0, 2.0, 3.0]) == "2.00 ± 1.00"
    assert spread([1.0, None]) == spread([None]) == "-"


@pytest.mark.parametrize("profile", ["paper", "sample"])
def test_an_overridden_recipe_is_not_shown_under_its_own_title_alone(profile: Any) -> None:
    path, row = RECIPES / "aflw_mean_teacher_l2i.yaml", "MT-L2I, AFLW, 1% of the labels"

    def title(*sets: str) -> str | None:
        about = recipes.load(path, profile, sets, seed=4).about
        shown = title_of(result_with(title=about.title, overrides=about.overrides, profile=profile))
        return shown and shown.removesuffix(": sample profile")

    assert title() == title("train.seed=3", "train.threads=1", "train.watch_test=6") == row
    assert title("task.labels=182") == f"{row}, with task.labels=182"
    assert title("problem.name=none", "method.weight=1", "method.weight=2") == (
        f"{row}, with problem.name=none, method.weight=2"
    )


def test_overrides_stay_with_a_run_that_is_read_back(runs: Path) -> None:
    result = read_run(runs / "l2i").result
    assert "task.faces=60" in result["overrides"] and "train.watch_test=6" not in result["overrides"]
    again = recipes.load(runs / "l2i" / "recipe.resolved.yaml", "sample")
    assert again.about.overrides == result["overrides"]
    more = recipes.load(runs / "l2i" / "recipe.resolved.yaml", "sample", ("task.faces=70", "problem.weight=2"))
    assert {"task.faces=70", "problem.weight=2", "train.steps=4"} <= set(more.about.overrides)
    assert "task.faces=60" not in more.about.overrides


def test_smoothing_is_a_trailing_mean() -> None:
    assert smoothed([1.0, 3.0, 5.0, 7.0], 2) == [1.0, 2.0, 4.0, 6.0]

"""A run predicts and imputes from any folder and on any machine, and its rows are called the same whatever asks."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import pytest

from metaimpute.rundir.origin import read_begun, recipe_of

from .own import Project, call, good


def labels(path: Path) -> dict[str, dict[str, str]]:
    with path.open(newline="") as stream:
        return {row["id"]: row for row in csv.DictReader(stream)}


def test_impute_and_predict_call_the_same_rows_by_the_same_names(project: Project, tmp_path: Path) -> None:
    inputs = "my_images/unlabelled" if project.kind == "images" else project.data
    good("impute", project.run, "--out", tmp_path / "i.csv", at=project.folder)
    good("predict", project.run, inputs, "--out", tmp_path / "p.csv", at=project.folder)
    imputed, predicted = labels(tmp_path / "i.csv"), labels(tmp_path / "p.csv")
    assert len(imputed) > 20 and set(imputed) <= set(predicted)
    column = "value" if project.kind == "values" else "label"
    assert all(row[column] == predicted[name][column] for name, row in imputed.items())


@pytest.mark.parametrize("part", ["unlabelled", "unlabelled/more", "unlabelled/more/1.png", ""])
def test_images_are_called_as_training_called_them_from_whatever_folder_they_are_read(
    project: Project, part: str, tmp_path: Path
) -> None:
    if project.kind != "images":
        pytest.skip("of images")
    good("predict", project.trained, project.folder / "my_images" / part, "--out", tmp_path / "p.csv")
    assert "unlabelled/more/1.png" in labels(tmp_path / "p.csv")


def test_a_run_imputes_from_elsewhere_whatever_lies_there(project: Project, tmp_path: Path) -> None:
    good("impute", project.run, "--out", tmp_path / "here.csv", at=project.folder)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    if project.kind != "images":
        (elsewhere / project.data).write_text("other,columns\n1,2\n")  # of the same name, and another's
    good("impute", project.trained, "--out", tmp_path / "there.csv", at=elsewhere)
    assert (tmp_path / "here.csv").read_bytes() == (tmp_path / "there.csv").read_bytes()
    inputs = project.folder / project.data
    good("predict", project.trained, inputs, "--out", tmp_path / "p.csv", at=elsewhere)


def test_a_project_that_has_moved_finds_its_data_beside_it(project: Project, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(project.folder, moved)
    kept = recipe_of(moved / project.run).task
    assert str(moved) in str(getattr(kept, "file", "") or kept.here())  # type: ignore[attr-defined]
    good("impute", moved / project.run, at=tmp_path)


def test_a_prediction_reads_nothing_of_what_training_read(project: Project, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(project.folder, moved)
    inputs = moved / "new"
    if project.kind == "images":
        (moved / "my_images" / "unlabelled").rename(inputs)
        shutil.rmtree(moved / "my_images" / "labelled" / "class1")
        shutil.rmtree(moved / "my_images" / "labelled" / "class2")
    else:
        inputs = (moved / project.data).rename(moved / "new.csv")
        (moved / project.data).write_text("of,another\nprogram\n")
    good("predict", moved / project.run, inputs, at=moved)


def test_data_that_is_gone_is_named_with_the_option_that_finds_it(project: Project, tmp_path: Path) -> None:
    alone = tmp_path / "alone" / "deep" / "run"
    shutil.copytree(project.trained, alone)
    begun = alone / "begun.json"
    begun.write_text(begun.read_text().replace(str(project.folder), "/nowhere/that/is"))
    done = call("impute", alone, at=tmp_path)
    assert done.exit_code == 3 and "--data PATH" in done.output and len(done.output.splitlines()) == 1
    data = project.folder / project.data
    good("impute", alone, "--data", data, "--out", tmp_path / "far.csv", at=tmp_path)
    good("impute", project.run, "--out", tmp_path / "near.csv", at=project.folder)
    assert (tmp_path / "far.csv").read_bytes() == (tmp_path / "near.csv").read_bytes()
    good("predict", alone, "--data", data, at=tmp_path)
    wrong = data.parent / "mine.yaml" if project.kind == "images" else data.parent
    done = call("impute", alone, "--data", wrong, at=tmp_path)
    assert done.exit_code == 2 and "--data: " in done.output, done.output


def test_data_is_no_option_of_what_reads_nothing_of_ones_own(tmp_path: Path) -> None:
    sets = ("--set", "train.steps=2", "--set", "train.eval_every=2", "--set", "train.threads=1")
    good("run", "two_moons", "--out", tmp_path / "run", *sets)
    done = call("impute", tmp_path / "run", "--data", tmp_path)
    assert done.exit_code == 2 and "task 'two_moons' of this run reads no file or folder of yours" in done.output


def test_a_recipe_finds_data_that_lies_beside_it(project: Project, tmp_path: Path) -> None:
    quick = (
        "--set",
        "train.steps=2",
        "--set",
        "train.eval_every=2",
        "--set",
        "train.threads=1",
        "--set",
        "choose=null",
    )
    model = ("--set", "model={name: cnn}", "--set", "problem.name=none") if project.kind == "images" else ()
    good("run", project.folder / "mine.yaml", "--out", tmp_path / "run", *quick, *model, at=tmp_path)
    good("impute", tmp_path / "run", at=project.folder.parent)


def test_what_was_kept_of_a_beginning_before_folders_were_is_read(tmp_path: Path) -> None:
    (tmp_path / "begun.json").write_text('{"recipe": "a.yaml", "profile": "sample", "why": "asked for"}')
    assert read_begun(tmp_path).where == [] and read_begun(tmp_path).recipe == "a.yaml"

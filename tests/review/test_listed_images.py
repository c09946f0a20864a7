"""Images whose labels stand in a table, by the commands a user takes: from the look at them to labels that come back corrected."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import pytest

from metaimpute.rundir.origin import recipe_of

from .. import fake_data
from .own import QUICK, call, good

SETS = [word for one in (*QUICK, "model={name: cnn}") for word in ("--set", one)]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images, a table of labels beside theirs, a recipe and a run."""
    folder = tmp_path_factory.mktemp("listed") / "project"
    folder.mkdir()
    fake_data.make_listed_images(folder)
    good(
        "init",
        "images",
        "my_images",
        "--labels",
        "labels.csv",
        "--set",
        "task.size=16",
        "--out",
        "mine.yaml",
        at=folder,
    )
    good("run", "mine.yaml", "--out", "runs/mine", *SETS, at=folder)
    return folder


def copied(made: Path, folder: Path) -> Path:
    """The project in another place, with nothing left of it where the run was begun."""
    shutil.copytree(made, folder)
    begun = folder / "runs/mine/begun.json"
    begun.write_text(begun.read_text().replace(str(made), "/nowhere/that/is"))
    return folder


def rows(path: Path) -> dict[str, str]:
    with path.open(newline="") as stream:
        return {row["id"]: row["label"] for row in csv.DictReader(stream)}


def imputed(folder: Path, at: Path, out: Path, *more: object) -> dict[str, str]:
    good("impute", folder / "runs/mine", "--out", out, *more, at=at)
    return rows(out)


def test_what_had_no_label_gets_one_and_rows_are_called_by_their_paths(made: Path, tmp_path: Path) -> None:
    found = imputed(made, made, tmp_path / "l.csv")
    assert sorted(int(Path(name).stem) for name in found) == list(range(18, 36))
    assert {"roll 1/21.png", "roll 2/late/18.png"} <= set(found)
    good(
        "predict",
        made / "runs/mine",
        made / "my_images/roll 2",
        "--with-content",
        "--out",
        tmp_path / "p.csv",
        at=tmp_path,
    )
    predicted = rows(tmp_path / "p.csv")
    assert predicted["roll 2/late/18.png"] == found["roll 2/late/18.png"]


def test_a_run_is_reviewed_and_rows_to_label_are_named(made: Path, tmp_path: Path) -> None:
    good("review", made / "runs/mine", "--out", tmp_path / "r.html", at=tmp_path)
    assert "roll 1/21.png" in (tmp_path / "r.html").read_text()
    good("suggest", made / "runs/mine", "--out", tmp_path / "s.csv", at=tmp_path)
    assert set(rows(tmp_path / "s.csv")) <= {*imputed(made, made, tmp_path / "l.csv")}


def test_corrections_and_new_classes_go_before_the_table(made: Path, tmp_path: Path) -> None:
    file = tmp_path / "corrected.csv"
    file.write_text("id,label\n00.png,fox\nroll 1/21.png,wolf\nroll 2/late/18.png,cat\n")
    new = ("--set", "task.new_classes=[wolf]")
    good("run", "mine.yaml", "--labels", file, "--out", tmp_path / "run", *SETS, *new, at=made)
    task = recipe_of(tmp_path / "run").task
    data = task.load(0)
    assert task.label_names == ["cat", "dog", "fox", "wolf"] and data.labelled.targets is not None
    given = dict(zip(task.row_names(data.labelled), data.labelled.targets.tolist(), strict=True))
    assert (given["00.png"], given["roll 1/21.png"], given["roll 2/late/18.png"]) == (2, 3, 0)
    good("impute", tmp_path / "run", "--out", tmp_path / "l.csv", at=tmp_path)
    assert "roll 1/21.png" not in rows(tmp_path / "l.csv")


@pytest.mark.parametrize("where", ["beside", "inside"])
def test_a_run_finds_its_images_and_their_table_wherever_they_went(where: str, made: Path, tmp_path: Path) -> None:
    folder = copied(made, tmp_path / "project")
    if where == "inside":
        (folder / "labels.csv").rename(folder / "my_images/labels.csv")
        good("run", "mine.yaml", "--set", "task.table=my_images/labels.csv", "--out", "runs/in", *SETS, at=folder)
        shutil.rmtree(folder / "runs/mine")
        (folder / "runs/in").rename(folder / "runs/mine")
    near = imputed(folder, folder, tmp_path / "near.csv")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "labels.csv").write_text("of,another\nprogram\n")
    assert imputed(folder, elsewhere, tmp_path / "far.csv") == near
    moved = tmp_path / "moved"
    folder.rename(moved)
    assert imputed(moved, elsewhere, tmp_path / "moved.csv") == near
    data = tmp_path / "away" / "pictures"
    data.parent.mkdir()
    (moved / "my_images").rename(data)
    if where == "beside":
        (moved / "labels.csv").rename(data.parent / "labels.csv")
    done = call("impute", moved / "runs/mine", at=tmp_path)
    assert done.exit_code == 3 and "--data PATH" in done.output and len(done.output.splitlines()) == 1
    assert imputed(moved, tmp_path, tmp_path / "data.csv", "--data", data) == near


def test_a_table_that_is_gone_is_named_and_no_prediction_misses_it(made: Path, tmp_path: Path) -> None:
    folder = copied(made, tmp_path / "project")
    (folder / "labels.csv").unlink()
    done = call("impute", folder / "runs/mine", at=tmp_path)
    assert done.exit_code == 3 and len(done.output.splitlines()) == 1, done.output
    assert "file labels.csv not found" in done.output and "put it there, or where it lay" in done.output
    good("predict", folder / "runs/mine", folder / "my_images", at=tmp_path)


def test_a_run_goes_on_where_it_stopped(made: Path, tmp_path: Path) -> None:
    folder = tmp_path / "project"
    shutil.copytree(made, folder)
    slow = [*SETS, "--set", "train.steps=30", "--set", "train.eval_every=30"]
    stopped = call("run", "mine.yaml", "--out", "runs/long", *slow, "--time-limit", "0.1s", at=folder)
    assert stopped.exit_code == 130 and "continue with --resume" in stopped.output, stopped.output
    good("run", "--resume", folder / "runs/long", at=tmp_path)
    assert (folder / "runs/long/result.json").is_file()


def test_no_file_of_labels_is_written_over(made: Path, tmp_path: Path) -> None:
    before = (made / "labels.csv").read_bytes()
    for words in (
        ("impute", "runs/mine", "--out", "labels.csv"),
        ("init", "images", "my_images", "--labels", "labels.csv", "--out", "labels.csv", "--force"),
    ):
        done = call(*words, at=made)
        assert done.exit_code == 2 and "is read here" in done.output, done.output
    assert (made / "labels.csv").read_bytes() == before


def test_labels_that_were_changed_since_are_told(made: Path, tmp_path: Path) -> None:
    folder = tmp_path / "project"
    shutil.copytree(made, folder)
    table = folder / "labels.csv"
    table.write_text(table.read_text() + "20.png,cat\n")
    done = call("impute", folder / "runs/mine", at=folder)
    assert done.exit_code == 2 and "the data has changed since" in done.output
    table.write_text(table.read_text() + "nobody.png,cat\n")
    done = call("impute", folder / "runs/mine", at=folder)
    assert (
        done.exit_code == 2 and "'nobody.png' (line 21 of labels.csv)" in done.output and done.output.count("\n") == 1
    )

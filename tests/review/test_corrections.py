"""Corrected labels come back: they go before those of the data, by the names that rows have in every file of labels."""

from __future__ import annotations

import csv
import json
import shutil
import tempfile
from pathlib import Path

import pytest

from metaimpute.review import collect
from metaimpute.rundir import checkpoint
from metaimpute.rundir.origin import recipe_of
from metaimpute.tasks.base import TaskError
from metaimpute.training.assemble import assemble

from .own import QUICK, Project, call, good


def rerun(project: Project, labels: Path, out: Path, *more: str) -> tuple[int, str]:
    model = ("model={name: cnn}",) if project.kind == "images" else ()
    sets = [word for one in (*QUICK, *model, *more) for word in ("--set", one)]
    done = call("run", "mine.yaml", "--labels", labels, "--out", out, *sets, at=project.folder)
    return done.exit_code, done.output


def unlabelled(project: Project) -> list[str]:
    out = project.folder / "rows.csv"
    good("impute", project.run, "--out", out, at=project.folder)
    return [line.split(",")[0] for line in out.read_text().splitlines()[1:] if not line.startswith('"')]


def some_label(project: Project) -> str:
    return {"images": "class2", "text": "bad", "table": "small", "values": "7.5"}[project.kind]


def test_corrected_rows_are_trained_on_with_their_new_label(project: Project, tmp_path: Path) -> None:
    first, second, third = unlabelled(project)[:3]
    label = some_label(project)
    given = "t0" if project.kind == "text" else "labelled/class0/0.png" if project.kind == "images" else "row 0"
    file = tmp_path / "corrected.csv"
    file.write_text(f"id,label\n{first},{label}\n{second},{label}\n{given},{label}\n{third},\n")
    code, said = rerun(
        project, file, tmp_path / "run", "task.test_share=0" if project.kind != "images" else "task.labels=0"
    )
    assert code == 0, said
    task = recipe_of(tmp_path / "run").task
    data = task.load(0)
    names = task.row_names(data.labelled)
    assert {first, second} <= set(names) and third not in names
    assert not {first, second} & set(task.row_names(data.unlabelled)) or task.unlabelled_includes_labelled
    assert data.labelled.targets is not None
    targets = dict(zip(names, data.labelled.targets.flatten().tolist(), strict=True))
    assert targets[first] == targets[second] == targets[given]
    if project.kind != "values":
        assert task.label_names is not None and task.label_names[int(targets[first])] == label
    good("impute", tmp_path / "run", "--out", tmp_path / "l.csv", at=tmp_path)
    assert f"\n{first}," not in (tmp_path / "l.csv").read_text()


def test_a_run_takes_its_corrections_along(project: Project, tmp_path: Path) -> None:
    """The file they came from may be gone, or hold others by now."""
    first = unlabelled(project)[0]
    file = tmp_path / "corrected.csv"
    file.write_text(f"id,label\n{first},{some_label(project)}\n")
    code, said = rerun(project, file, tmp_path / "run")
    assert code == 0, said
    assert json.loads((tmp_path / "run" / "task.json").read_text())["corrections"] == {first: some_label(project)}
    file.unlink()
    good("impute", tmp_path / "run", at=tmp_path)
    file.write_text("id,label\nnobody,nothing\n")
    good("impute", tmp_path / "run", at=tmp_path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("id,label\nFIRST,LABEL\nFIRSTx,LABEL\n", "line 3: no row is called 'FIRSTx'; did you mean 'FIRST'?"),
        ("id,label\nFIRST,LABEL\nzzzzzz!,LABEL\n", "line 3: no row is called 'zzzzzz!'; "),
        ("id,label\nFIRST,LABELx\n", "line 2: 'LABELx' is no "),
        ("id,label\nFIRST,LABEL\nFIRST,OTHER\n", "has two labels, in lines 2 and 3"),
        ("id,lable\nFIRST,LABEL\n", "has no column 'label'; did you mean 'lable'?"),
        ("name,label\nFIRST,LABEL\n", "has no column 'id'"),
    ],
)
def test_a_mistake_in_the_file_is_one_line_with_the_place_and_the_nearest_choice(
    project: Project, content: str, said: str, tmp_path: Path
) -> None:
    first, label = unlabelled(project)[0], some_label(project)
    other = {"images": "class1", "text": "good", "table": "large", "values": "1.5"}[project.kind]
    file = tmp_path / "c.csv"
    for word, meant in (("FIRST", first), ("LABEL", label), ("OTHER", other)):
        content, said = content.replace(word, meant), said.replace(word, meant)
    file.write_text(content)
    code, shown = rerun(project, file, tmp_path / "run")
    last = shown.splitlines()[-1]
    assert code == 2 and last.startswith("error: --labels: ") and "c.csv" in last and said in last, shown
    assert not (tmp_path / "run" / "result.json").exists()
    if "LABELx" in content and project.kind != "values":
        assert f"did you mean '{label}'?" in last


def test_rows_that_a_spreadsheet_has_numbered_with_decimals_are_found() -> None:
    from metaimpute.tasks.corrections import read_corrections

    def read(content: str, names: list[str], folder: Path) -> dict[str, str]:
        (folder / "c.csv").write_text(content)
        return read_corrections(folder / "c.csv", names, ["x", "y"])

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        assert read("id,label\n3.0,x\n10.00,y\n", ["3", "10"], folder) == {"3": "x", "10": "y"}
        assert read("id,label\n3.0,x\n", ["3", "3.0"], folder) == {"3.0": "x"}, "a name as it is goes first"
        with pytest.raises(TaskError, match="line 3: no row is called '3.5'"):
            read("id,label\n3.0,x\n3.5,y\n", ["3"], folder)
        with pytest.raises(TaskError, match="'3' has two labels, in lines 2 and 3"):
            read("id,label\n3.0,x\n3,y\n", ["3"], folder)


def test_numbers_are_read_as_the_data_writes_them(tmp_path: Path) -> None:
    from metaimpute.tasks.corrections import read_corrections

    def read(cell: str, commas: bool) -> float:
        (tmp_path / "c.csv").write_text(f'id,label\n3,"{cell}"\n')
        return float(read_corrections(tmp_path / "c.csv", ["3"], None, commas)["3"])

    assert read("1.234,56 €", True) == read("$1,234.56", False) == read("1234.56", True) == 1234.56
    assert read("1,5", True) == read("1,5", False) == read("1.5", True) == 1.5
    assert read("1,234", True) == read("1.234", False) == 1.234
    for cell, commas, way in (("1.234", True, "1,2340"), ("1,234", False, "1.2340"), ("-12,345", False, "-12.3450")):
        plain = cell.replace(",", "").replace(".", "")
        with pytest.raises(TaskError, match=rf"line 2: '{cell}' may be .* or {plain}; write {plain}, or {way}$"):
            read(cell, commas)
    assert read("0,500", False) == read("0.500", True) == 0.5
    assert read("1234", True) == 1234 and read("1,2340", True) == read("1.2340", False) == 1.234
    with pytest.raises(TaskError, match="line 2: 'many' is no number; write one"):
        read("many", False)


def test_a_second_round_keeps_the_first(project: Project, tmp_path: Path) -> None:
    rows, label = unlabelled(project), some_label(project)
    (tmp_path / "one.csv").write_text(f"id,label\n{rows[0]},{label}\n{rows[1]},{label}\n")
    (tmp_path / "two.csv").write_text(f"id,label\n{rows[0]},{label}\n{rows[2]},{label}\n")
    for name in ("one", "two"):
        code, said = rerun(project, tmp_path / f"{name}.csv", tmp_path / name)
        assert code == 0, said
    found = collect(tmp_path / "one")
    assert found.kept == {rows[0]: label, rows[1]: label}
    page_of = good("review", tmp_path / "one", "--out", tmp_path / "r.html")
    assert "wrote" in page_of and rows[1] in (tmp_path / "r.html").read_text()
    changes = collect(tmp_path / "two", before=tmp_path / "one").changes
    assert changes is not None and changes.withdrawn == 1
    said = good("review", tmp_path / "two", "--before", tmp_path / "one", "--out", tmp_path / "r2.html")
    assert "warning: corrections of that run that this one was made without: 1" in said
    assert "that this one was made without: 1" in (tmp_path / "r2.html").read_text()
    good("suggest", tmp_path / "one", "-n", "3", "--out", tmp_path / "next.csv")
    with (tmp_path / "next.csv").open(newline="") as stream:
        filled = {row["id"]: row["label"] for row in csv.DictReader(stream) if row["label"]}
    assert filled == {rows[0]: label, rows[1]: label}
    code, said = rerun(project, tmp_path / "next.csv", tmp_path / "three")
    assert code == 0 and collect(tmp_path / "three").kept == found.kept, said
    done = call(
        "run", "mine.yaml", "--labels", tmp_path / "one.csv", "--labels", tmp_path / "two.csv", at=project.folder
    )
    assert done.exit_code == 2 and "one file holds all corrections" in done.output


def test_what_is_kept_of_a_number_is_read_again(tmp_path: Path) -> None:
    from metaimpute.tasks.corrections import read_corrections

    kept = "5,123"
    for _ in range(3):
        (tmp_path / "c.csv").write_text(f'id,label\n3,"{kept}"\n')
        kept = read_corrections(tmp_path / "c.csv", ["3"], None, commas=True)["3"]
        assert float(kept) == 5.123


def test_a_row_that_is_corrected_and_suggested_stands_in_the_file_once(project: Project, tmp_path: Path) -> None:
    rows, label = unlabelled(project), some_label(project)
    (tmp_path / "c.csv").write_text("id,label\n" + "".join(f"{row},{label}\n" for row in rows[:6]))
    code, said = rerun(project, tmp_path / "c.csv", tmp_path / "run", "task.labels=8")
    assert code == 0, said
    good("suggest", tmp_path / "run", "-n", "200", "--out", tmp_path / "next.csv")
    with (tmp_path / "next.csv").open(newline="") as stream:
        found = [(row["id"], row["label"]) for row in csv.DictReader(stream)]
    assert len({name for name, _ in found}) == len(found) and {name for name, given in found if given} == set(rows[:6])


def test_given_values_are_written_as_they_were_given(project: Project, tmp_path: Path) -> None:
    if project.kind != "values":
        pytest.skip("classes are words")
    first = unlabelled(project)[0]
    (tmp_path / "c.csv").write_text(f"id,label\n{first},3929434.98\n")
    code, said = rerun(project, tmp_path / "c.csv", tmp_path / "run")
    assert code == 0, said
    good("impute", tmp_path / "run", "--with-given", "--out", tmp_path / "l.csv")
    with (tmp_path / "l.csv").open(newline="") as stream:
        values = {row["id"]: row["value"] for row in csv.DictReader(stream)}
    assert float(values[first]) == 3929434.98


def test_check_takes_the_file_too(project: Project, tmp_path: Path) -> None:
    first, label = unlabelled(project)[0], some_label(project)
    (tmp_path / "good.csv").write_text(f"id,label\n{first},{label}\n")
    assert "valid" in good("check", "mine.yaml", "--labels", tmp_path / "good.csv", at=project.folder)
    (tmp_path / "bad.csv").write_text(f"id,label\n{first}x,{label}\n")
    done = call("check", "mine.yaml", "--labels", tmp_path / "bad.csv", at=project.folder)
    assert done.exit_code == 2 and done.output.startswith("error: --labels: "), done.output
    assert f"no row is called '{first}x'; did you mean '{first}'?" in done.output


def test_corrections_are_of_ones_own_data_alone(tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_text("id,label\n0,1\n")
    done = call("run", "two_moons", "--labels", tmp_path / "c.csv", "--out", tmp_path / "run")
    assert done.exit_code == 2 and "--labels: the recipe's task is not on data of your own" in done.output, done.output
    done = call("run", "two_moons", "--labels", tmp_path / "none.csv")
    assert done.exit_code == 2 and "none.csv" in done.output


def test_a_recipe_names_a_file_that_must_be_there(project: Project, tmp_path: Path) -> None:
    sets = [word for one in (*QUICK, "task.corrections=none.csv") for word in ("--set", one)]
    done = call("run", "mine.yaml", "--out", tmp_path / "run", *sets, at=project.folder)
    assert done.exit_code == 2 and "task.corrections: there is no file none.csv" in done.output, done.output


def test_the_next_page_says_what_changed(project: Project, tmp_path: Path) -> None:
    folder = tmp_path / "project"
    shutil.copytree(project.folder, folder)
    moved = Project(project.kind, folder, project.data)
    first, label = unlabelled(moved)[0], some_label(moved)
    (folder / "c.csv").write_text(f"id,label\n{first},{label}\n")
    assert rerun(moved, Path("c.csv"), Path("runs/next"))[0] == 0
    found = collect(folder / "runs/next", before=moved.trained)
    assert found.changes is not None
    assert [(name, new) for name, _, new in found.changes.corrected] == [(first, label)]
    assert found.changes.shared > 20 and found.changes.changed >= len(found.changes.rows) > -1
    said = good("review", folder / "runs/next", "--before", moved.trained, at=tmp_path)
    assert "changed since" in said
    text = (folder / "runs/next/review.html").read_text()
    assert "What changed" in text and f'<th scope="row">{first}</th>' in text


def test_a_class_that_nobody_had_labelled_is_announced(project: Project, tmp_path: Path) -> None:
    rows = unlabelled(project)[:3]
    file = tmp_path / "corrected.csv"
    file.write_text("id,label\n" + "".join(f"{row},{'9.25' if project.kind == 'values' else 'vast'}\n" for row in rows))
    code, said = rerun(project, file, tmp_path / "run", "task.new_classes=[vast]", "task.test_share=0")
    if project.kind == "values":
        assert code == 2 and "new_classes: labels are values here, not classes" in said
        return
    assert code == 0, said
    task = recipe_of(tmp_path / "run").task
    assert task.label_names is not None and "vast" in task.label_names and task.output.size == len(task.label_names)
    made = good("impute", tmp_path / "run", "--out", tmp_path / "l.csv", at=tmp_path)
    assert made and "p(vast)" in (tmp_path / "l.csv").read_text().splitlines()[0]


def test_a_new_class_that_no_row_has_and_one_that_is_not_announced_are_refused(
    project: Project, tmp_path: Path
) -> None:
    if project.kind == "values":
        return
    file = tmp_path / "corrected.csv"
    file.write_text(f"id,label\n{unlabelled(project)[0]},vast\n")
    code, said = rerun(project, file, tmp_path / "run")
    assert code == 2 and "a new one is announced with --set 'task.new_classes=[vast]'" in said
    file.write_text(f"id,label\n{unlabelled(project)[0]},{some_label(project)}\n")
    code, said = rerun(project, file, tmp_path / "other", "task.new_classes=[vast]")
    assert code == 2 and "no training label of class 'vast'" in said


TRUST = "problem={name: hyper_cleaning, estimator: mixed, holdout: trusted, holdout_batch: 2, inner: {lr: 0.1}}"


def test_labels_that_a_person_gave_are_those_that_hyper_cleaning_trusts(project: Project, tmp_path: Path) -> None:
    names, label = unlabelled(project)[:3], some_label(project)
    file = tmp_path / "looked_at.csv"
    file.write_text("id,label\n" + "".join(f"{name},{label}\n" for name in names))
    code, said = rerun(project, file, tmp_path / "run", TRUST, "method={name: supervised}", "task.labels=0")
    assert code == 0, said
    recipe = recipe_of(tmp_path / "run")
    parts = assemble(recipe, lambda line: None)
    held, trained = parts.batches.holdout_pool, parts.batches.labelled
    assert sorted(recipe.task.row_names(held)) == sorted(names)
    assert not set(names) & set(recipe.task.row_names(trained)) and len(trained)
    with (tmp_path / "run" / "row_weights.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    weights = checkpoint.latest(tmp_path / "run")[0]["meta"]["logits"].sigmoid().tolist()
    ids = recipe.task.row_names(trained)
    assert [float(row["weight"]) for row in rows] == sorted(weights)
    assert {row["id"]: float(row["weight"]) for row in rows} == dict(zip(ids, weights, strict=True))
    assert trained.targets is not None and recipe.task.label_names is not None
    given = [recipe.task.label_names[int(n)] for n in trained.targets] if project.kind != "values" else None
    assert given is None or {row["id"]: row["label"] for row in rows} == dict(zip(ids, given, strict=True))
    assert f"{sum(w < 0.5 for w in weights)} of {len(ids)} labelled rows have learned a weight below a half" in said


def test_without_such_labels_it_says_where_they_come_from(project: Project, tmp_path: Path) -> None:
    sets = [word for one in (*QUICK, TRUST) for word in ("--set", one)]
    done = call("run", "mine.yaml", "--out", tmp_path / "run", *sets, at=project.folder)
    assert done.exit_code == 2 and "task.corrections (metaimpute run --labels FILE)" in done.output, done.output

